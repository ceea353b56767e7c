"""``%load_ext ollm`` and ``%unload_ext ollm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.notebook.completion import add_completion, remove_completion
from ollm_widgets.notebook.magics import OllmMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_NAME = OllmMagics.__name__


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add ``%ollm`` and ``%%ollm`` with their completion; a second time changes nothing."""
    if _NAME in shell.magics_manager.registry:
        return
    shell.register_magics(OllmMagics)
    add_completion(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away; loaded models stay in memory."""
    manager = shell.magics_manager
    if manager.registry.pop(_NAME, None) is None:
        return
    for kind in ("line", "cell"):
        manager.magics[kind].pop("ollm", None)
    remove_completion(shell)
