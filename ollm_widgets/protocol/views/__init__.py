"""Each part of a session as the page shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.snapshot import PROTOCOL_VERSION, Snapshot
from ollm_widgets.protocol.views.activity import view_activity
from ollm_widgets.protocol.views.capabilities import view_capabilities
from ollm_widgets.protocol.views.chat import view_chat
from ollm_widgets.protocol.views.header import view_header
from ollm_widgets.protocol.views.loading import view_loading
from ollm_widgets.protocol.views.memory import view_memory
from ollm_widgets.protocol.views.models import view_models
from ollm_widgets.protocol.views.plan import view_plan

if TYPE_CHECKING:
    from ollm_widgets.session.session import Session

__all__ = [
    "view_activity",
    "view_capabilities",
    "view_chat",
    "view_header",
    "view_loading",
    "view_memory",
    "view_models",
    "view_plan",
    "view_snapshot",
]


def view_snapshot(session: Session, seq: int) -> Snapshot:
    """Everything at one moment, up to event `seq`."""
    with session.lock:
        return Snapshot(
            v=PROTOCOL_VERSION,
            seq=seq,
            title=view_header(session).title,
            models=view_models(session),
            plan=view_plan(session),
            loading=view_loading(session),
            capabilities=view_capabilities(session),
            memory=view_memory(session),
            chat=view_chat(session),
            activity=view_activity(session),
        )
