"""Load the chosen model with progress, cancel it, read what went wrong."""

from __future__ import annotations

from ollm_widgets.widgets.base import STATIC, SessionWidget


class LoadPanel(SessionWidget):
    """Load the chosen model with progress, cancel it, read what went wrong."""

    _esm = STATIC / "load-panel.js"
    _css = STATIC / "load-panel.css"
    _draws = ("header", "loading")
