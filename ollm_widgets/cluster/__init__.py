"""The same runtimes on many machines, through Ray Serve; Ray is imported when it is used."""
