"""Region `Capabilities`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ollm_widgets.protocol.pieces import Chip
from ollm_widgets.protocol.snapshot import CapabilitiesView, Row

if TYPE_CHECKING:
    from ollm_widgets.session.session import Session


def view_capabilities(session: Session) -> CapabilitiesView | None:
    """The profile of the chosen model, and how the plan's prediction held."""
    with session.lock:
        plan, runtime = session.plan, session.runtime
        if plan is None:
            return None
        if runtime is not None and runtime.plan is not plan:
            runtime = None  # another model is chosen, or the same one in another way
        profile = runtime.capabilities if runtime else plan.capabilities
        tone: Literal["ok", "no"] = "no" if profile.support_level == "unsupported" else "ok"
        rows = [Row(term=row.term, text=row.text, tone=row.tone) for row in profile.rows()]
        if runtime is not None:
            said = [each.row() for each in runtime.truth.shown]
            rows += [Row(term=row.term, text=row.text, tone=row.tone) for row in said]
        return CapabilitiesView(
            title=plan.resolved_model.display_name,
            support=Chip(text=profile.support_level, tone=tone),
            rows=tuple(rows),
        )
