"""``%load_ext ollm`` and ``%unload_ext ollm``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ollm_widgets.notebook.completion import add_completion, remove_completion
from ollm_widgets.notebook.magics import OllmMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_NAME = OllmMagics.__name__
_HELP = re.compile(r"%%ollm\s+(-h|--help)\s*")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add ``%ollm`` and ``%%ollm`` with their completion; a second time changes nothing."""
    if _NAME in shell.magics_manager.registry:
        return
    shell.register_magics(OllmMagics)
    shell.input_transformers_cleanup.append(_help_alone)
    add_completion(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away; loaded models stay in memory."""
    manager = shell.magics_manager
    if manager.registry.pop(_NAME, None) is None:
        return
    for kind in ("line", "cell"):
        manager.magics[kind].pop("ollm", None)
    if _help_alone in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(_help_alone)
    remove_completion(shell)


def _help_alone(lines: list[str]) -> list[str]:
    """Let ``%%ollm --help`` stand alone in a cell: IPython wants a line below a cell magic."""
    if lines and not any(map(str.strip, lines[1:])) and _HELP.fullmatch(lines[0]):
        return ["%%ollm --help\n", "?\n"]
    return lines
