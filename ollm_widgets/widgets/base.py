"""What all widgets share: a session, a snapshot trait, a sender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ollm_widgets.protocol.inbox import Inbox
from ollm_widgets.protocol.outbox import Outbox
from ollm_widgets.protocol.views import view_snapshot
from ollm_widgets.protocol.wire import as_plain_data
from ollm_widgets.session.parts import PARTS, Part
from ollm_widgets.session.session import Session, default_session
from ollm_widgets.widgets.frozen import Frozen, freeze

STATIC = Path(__file__).parent.parent / "static"


class SessionWidget(anywidget.AnyWidget):
    """A view of a session.

    Parameters
    ----------
    session
        What to show; the session that all widgets of this kernel share by default, so that
        parts shown in different cells belong together.
    """

    # Set by the kernel alone: the page holds no truth of its own.
    snapshot = traitlets.Dict(read_only=True).tag(sync=True)
    _draws: tuple[Part, ...] = PARTS  # the page is told of no other parts

    def __init__(self, session: Session | None = None) -> None:
        self.session = session or default_session()
        super().__init__()
        _take_messages_while_a_cell_runs(self.comm)
        self.set_trait("snapshot", as_plain_data(view_snapshot(self.session, 0)))
        self._outbox = Outbox(
            self.session,
            self.send,
            lambda snapshot: self.set_trait("snapshot", snapshot),
            self._draws,
        )
        self._inbox = Inbox(self.session, self._outbox)
        self.on_msg(lambda _widget, content, buffers: self._inbox.receive(content, buffers))

    def close(self) -> None:
        """Take the view away; loaded models stay in memory."""
        outbox: Outbox | None = getattr(self, "_outbox", None)
        if outbox is not None:
            outbox.close()
        super().close()

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take nothing that a page syncs: it draws what the kernel says, and asks by commands."""

    def freeze(self) -> Frozen:
        """What the view shows now, as an object that needs neither kernel nor script.

        Displayed at the end of a cell, it stays in the saved notebook: in one that is exported,
        shown on the web, or opened where nothing runs. What models said is in it as text.
        """
        return freeze(type(self).__name__, self.session)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Add what can be read in places that cannot draw widgets."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if isinstance(data, dict):
            frozen = self.freeze()
            data["text/plain"], data["text/html"] = frozen.to_text(), frozen.to_html()
        return bundle


def _take_messages_while_a_cell_runs(comm: object) -> None:
    """Let each message of the page run where the page sent it, on its subshell.

    ipykernel sends a page's messages to whichever loop wrote to the comm last, so that code
    which awaits a reply gets it. A widget that was made by a cell would so hear nothing until
    the kernel is idle. Our handlers run on any thread and nobody awaits, so that the page's
    own choice is the better one. Kernels without that rule, and without subshells, have
    nothing to change.
    """
    if hasattr(comm, "_reply_subshell_for"):
        setattr(comm, "_reply_subshell_for", lambda _data, default: default)  # noqa: B010  (not ours to declare)
