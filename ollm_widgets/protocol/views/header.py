"""The line above everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.events import HeaderView

if TYPE_CHECKING:
    from ollm_widgets.session.session import Session


def view_header(session: Session) -> HeaderView:
    """The model in use: the one that is loaded, else the one that was chosen."""
    with session.lock:
        if session.runtime is not None:
            return HeaderView(title=session.runtime.name)
        if session.plan is not None:
            return HeaderView(title=session.plan.resolved_model.display_name)
        if session.config is not None:
            return HeaderView(title=str(session.config.model_reference))
        return HeaderView(title="No model chosen")
