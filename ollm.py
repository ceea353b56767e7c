"""The name that ``%load_ext ollm`` imports; everything else is in `ollm_widgets`.

Both functions are safe to call more than once. Where the unrelated ``ollm`` distribution is
installed too, its package hides this module: ``%load_ext ollm_widgets`` does the same.
"""

from ollm_widgets.notebook.extension import load_ipython_extension, unload_ipython_extension

__all__ = ["load_ipython_extension", "unload_ipython_extension"]
