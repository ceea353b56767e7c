"""Edit how the chosen model would run, and see whether it fits and how fast."""

from __future__ import annotations

from ollm_widgets.widgets.base import STATIC, SessionWidget


class PlanEditor(SessionWidget):
    """Edit how the chosen model would run, and see whether it fits and how fast."""

    _esm = STATIC / "plan-editor.js"
    _css = STATIC / "plan-editor.css"
    _draws = ("plan",)
