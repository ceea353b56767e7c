"""Talk to the loaded model, answers streaming in."""

from __future__ import annotations

from ollm_widgets.widgets.base import STATIC, SessionWidget


class Chat(SessionWidget):
    """Talk to the loaded model, answers streaming in."""

    _esm = STATIC / "chat.js"
    _css = STATIC / "chat.css"
    _draws = ("header", "chat")
