"""Region `Capabilities`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ollm_widgets.protocol.snapshot import CapabilitiesView, Chip, Row

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
        last = session.conversation.last
        if runtime is not None and last is not None and last.tokens_per_s and plan.speed:
            predicted = plan.speed.tokens_per_s
            rows.append(
                Row(
                    term="Speed",
                    text=f"{predicted:.1f} predicted, {last.tokens_per_s:.1f} tokens/s measured",
                )
            )
        return CapabilitiesView(
            title=plan.resolved_model.display_name,
            support=Chip(text=profile.support_level, tone=tone),
            rows=tuple(rows),
        )
