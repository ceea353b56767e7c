"""The line above everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.events import HeaderView

if TYPE_CHECKING:
    from ollm_widgets.session.session import Session


def view_header(session: Session) -> HeaderView:
    """Which model, and what it is doing."""
    with session.lock:
        runtime = session.runtime
        if runtime is not None:
            doing = "answering" if session.conversation.busy else "loaded"
            return HeaderView(title=f"{runtime.name}, {doing}")
        if session.loading.active:
            return HeaderView(title=f"{session.loading.model}, loading")
        if session.config is None:
            return HeaderView(title="No model chosen")
        plan = session.plan
        name = plan.resolved_model.display_name if plan else session.config.model_reference
        return HeaderView(title=f"{name}, not loaded")
