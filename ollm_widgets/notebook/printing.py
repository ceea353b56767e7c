"""What the magics print: lines that a model, a file or the hub may have had a hand in."""

from __future__ import annotations

import shutil
import sys

from ollm_widgets.render.terminal import harmless
from ollm_widgets.render.text import printable

_LINE_WIDTH = 72
_LEAST_NAME = 12


def say(text: str) -> None:
    """Print a text at once, without anything that a terminal would obey."""
    print(harmless(text), flush=True)


def rewrite_line(text: str, whose: str = "") -> None:
    """Write ``"whose: text"`` over the line that stands there, so that it stays one line.

    Where there is no room for both, the beginning of the name gives way, as that of a path can.
    """
    width = min(_LINE_WIDTH, shutil.get_terminal_size().columns - 1)
    said, name = printable(text), printable(whose)
    room = max(width - len(said) - 2, _LEAST_NAME)
    if len(name) > room:
        name = f"…{name[1 - room :]}"
    line = f"{name}: {said}" if name else said
    sys.stdout.write("\r" + line[:width].ljust(width))
    sys.stdout.flush()
