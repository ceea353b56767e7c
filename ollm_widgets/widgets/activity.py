"""What a model does while it answers: its speed, its memory, where its time goes."""

from __future__ import annotations

from ollm_widgets.widgets.base import STATIC, SessionWidget


class Activity(SessionWidget):
    """What a model does while it answers: its speed, its memory, where its time goes."""

    _esm = STATIC / "activity.js"
    _css = STATIC / "activity.css"
    _draws = ("activity",)
