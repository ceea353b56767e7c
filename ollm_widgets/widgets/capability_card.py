"""What the chosen model can do, and for everything it cannot, why."""

from __future__ import annotations

from ollm_widgets.widgets.base import STATIC, SessionWidget


class CapabilityCard(SessionWidget):
    """What the chosen model can do, and for everything it cannot, why."""

    _esm = STATIC / "capability-card.js"
    _css = STATIC / "capability-card.css"
    _draws = ("capabilities",)
