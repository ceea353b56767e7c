"""A runtime on another machine, as the notebook has it in hand."""
