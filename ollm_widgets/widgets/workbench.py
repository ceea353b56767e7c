"""Everything in one place: models, plan, loading, capabilities, chat, memory."""

from __future__ import annotations

from ollm_widgets.widgets.base import STATIC, SessionWidget


class Workbench(SessionWidget):
    """Everything in one place: models, plan, loading, capabilities, chat, memory."""

    _esm = STATIC / "workbench.js"
    _css = STATIC / "workbench.css"
