"""The one sender of a comm: replies at once, changes in batches, a snapshot now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ollm_widgets.protocol import views
from ollm_widgets.protocol.commands import Reply
from ollm_widgets.protocol.events import (
    CapabilitiesEvent,
    ChatDeltaEvent,
    ChatEvent,
    Event,
    HeaderEvent,
    HeaderView,
    LoadingEvent,
    MemoryEvent,
    ModelsEvent,
    PlanEvent,
    SnapshotEvent,
    TextDelta,
)
from ollm_widgets.protocol.snapshot import PROTOCOL_VERSION, ChatView, Snapshot
from ollm_widgets.session.parts import PARTS, Part

if TYPE_CHECKING:
    from ollm_widgets.session.session import Session

_log = logging.getLogger(__name__)

# Jupyter's server drops messages above 1,000 a second; batches every 30 to 50 ms lose none.
BATCH_S = 0.04
SNAPSHOT_S = 1.0

_VIEWS: dict[Part, tuple[Callable[[Session], Any], type[Any]]] = {
    "header": (views.view_header, HeaderEvent),
    "models": (views.view_models, ModelsEvent),
    "plan": (views.view_plan, PlanEvent),
    "loading": (views.view_loading, LoadingEvent),
    "capabilities": (views.view_capabilities, CapabilitiesEvent),
    "memory": (views.view_memory, MemoryEvent),
    "chat": (views.view_chat, ChatEvent),
}


class Outbox:
    """Turns changes of a session into messages, on a thread of its own.

    What is sent is made when it is sent, so a burst of changes costs one message a part,
    and the text of an answer crosses once.

    Parameters
    ----------
    session
        What is shown.
    send
        Sends one custom message to the page.
    publish
        Sets the synced snapshot.
    """

    def __init__(
        self,
        session: Session,
        send: Callable[[dict[str, Any]], None],
        publish: Callable[[dict[str, Any]], None],
    ) -> None:
        self._session = session
        self._send = send
        self._publish = publish
        self._seq = 0
        self._sent: dict[Part, Any] = {}
        self._wake = threading.Condition()
        self._dirty: dict[Part, str | None] = {}
        self._replies: deque[Reply] = deque()
        self._snapshot_wanted = False
        self._stale = False  # the published snapshot is behind
        self._published = time.monotonic()
        self._closed = False
        self._unwatch = session.watch(self.note)
        self._thread = threading.Thread(target=self._run, name="ollm-sender", daemon=True)
        self._thread.start()

    def note(self, part: Part, job: str | None = None) -> None:
        """Remember that a part has changed; never blocks."""
        with self._wake:
            self._dirty[part] = job or self._dirty.get(part)
            self._wake.notify()

    def reply(self, reply: Reply, *, then_snapshot: bool = False) -> None:
        """Answer a command, followed by a snapshot event where the page asked for one."""
        with self._wake:
            self._replies.append(reply)
            self._snapshot_wanted |= then_snapshot
            self._wake.notify()

    def close(self) -> None:
        """Stop sending."""
        self._unwatch()
        with self._wake:
            self._closed = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    # ------------------------------------------------------------------ on the sender's thread

    def _run(self) -> None:
        flushed = 0.0
        while True:
            with self._wake:
                while not self._closed and not self._something_due(flushed):
                    self._wake.wait(self._patience(flushed))
                if self._closed:
                    return
                replies, wanted = list(self._replies), self._snapshot_wanted
                self._replies.clear()
                self._snapshot_wanted = False
                dirty: dict[Part, str | None] = {}
                if time.monotonic() - flushed >= BATCH_S or wanted:
                    dirty, self._dirty = self._dirty, {}
            if dirty or wanted:
                flushed = time.monotonic()
                self._stale = True
            for reply in replies:
                self._attempt(self._send, msgspec.to_builtins(reply))
            if wanted:
                self._attempt(self._send_snapshot)
            elif dirty:
                self._attempt(self._send_changes, dirty)
            self._attempt(self._publish_when_due)

    def _attempt(self, step: Callable[..., None], *arguments: Any) -> None:
        """Do a step; its failure must not silence the sender for good."""
        try:
            step(*arguments)
        except Exception:
            _log.exception("A message to the page was lost.")

    def _something_due(self, flushed: float) -> bool:
        if self._replies or self._snapshot_wanted:
            return True
        now = time.monotonic()
        return bool(self._dirty and now - flushed >= BATCH_S) or (
            self._stale and now - self._published >= SNAPSHOT_S
        )

    def _patience(self, flushed: float) -> float | None:
        """Seconds until something may be due; None while only a notice can make it so."""
        now = time.monotonic()
        waits = []
        if self._dirty:
            waits.append(flushed + BATCH_S - now)
        if self._stale:
            waits.append(self._published + SNAPSHOT_S - now)
        return max(min(waits), 0.001) if waits else None

    def _send_changes(self, dirty: dict[Part, str | None]) -> None:
        for part in PARTS:
            if part not in dirty:
                continue
            make, event = _VIEWS[part]
            view, before = make(self._session), self._sent.get(part)
            if view == before:
                continue
            self._sent[part] = view
            added = added_text(before, view) if part == "chat" else None
            if added is not None:
                self._emit(ChatDeltaEvent, added, dirty[part])
            else:
                self._emit(event, view, dirty[part])

    def _send_snapshot(self) -> None:
        snapshot = views.view_snapshot(self._session, self._seq + 1)
        self._sent = {
            "models": snapshot.models,
            "plan": snapshot.plan,
            "loading": snapshot.loading,
            "capabilities": snapshot.capabilities,
            "memory": snapshot.memory,
            "chat": snapshot.chat,
            "header": HeaderView(title=snapshot.title),
        }
        self._emit(SnapshotEvent, snapshot, None)

    def _emit(self, event: Callable[..., Event], body: Any, job: str | None) -> None:
        self._seq += 1
        message = event(v=PROTOCOL_VERSION, seq=self._seq, job=job, body=body)
        self._send(msgspec.to_builtins(message))

    def _publish_when_due(self) -> None:
        if not self._stale:
            return
        due = time.monotonic() - self._published >= SNAPSHOT_S
        if due or not self._session.running:
            self._stale = False
            self._published = time.monotonic()
            self._publish(msgspec.to_builtins(self._as_sent()))

    def _as_sent(self) -> Snapshot:
        """What the page shows after event `seq`: what came later would arrive twice."""
        parts = {
            part: self._sent[part] if part in self._sent else make(self._session)
            for part, (make, _event) in _VIEWS.items()
        }
        header = parts.pop("header")
        return Snapshot(v=PROTOCOL_VERSION, seq=self._seq, title=header.title, **parts)


def added_text(before: ChatView | None, now: ChatView) -> TextDelta | None:
    """The text that makes `before` into `now`, None if anything else differs.

    The status line and the token count move with every token; they wait for the next whole
    view, so that streaming stays linear in the length of the text.
    """
    if before is None or not before.turns or len(before.turns) != len(now.turns):
        return None
    last, grown = before.turns[-1], now.turns[-1]
    same_frame = (before.busy, before.can_send, before.hint, before.turns[:-1]) == (
        now.busy,
        now.can_send,
        now.hint,
        now.turns[:-1],
    )
    same_turn = (last.id, last.state, last.note) == (grown.id, grown.state, grown.note)
    if not same_frame or not same_turn or not grown.text.startswith(last.text):
        return None
    if grown.text == last.text:
        return None
    return TextDelta(turn=grown.id, text=grown.text[len(last.text) :])
