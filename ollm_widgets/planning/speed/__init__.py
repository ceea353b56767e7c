"""How fast a plan should run: from the bytes that move, what was measured, and what came true."""
