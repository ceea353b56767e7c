"""The runtimes in memory: use, pin, unload."""

from __future__ import annotations

from ollm_widgets.widgets.base import STATIC, SessionWidget


class RuntimeShelf(SessionWidget):
    """The runtimes in memory: use, pin, unload."""

    _esm = STATIC / "runtime-shelf.js"
    _css = STATIC / "runtime-shelf.css"
    _draws = ("memory",)
