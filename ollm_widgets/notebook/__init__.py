"""The IPython extension, its magics and their completion."""
