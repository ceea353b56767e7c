"""The one sender of a comm: replies at once, changes in batches, a snapshot now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ollm_widgets.protocol import views
from ollm_widgets.protocol.commands import Reply
from ollm_widgets.protocol.events import (
    ActivityEvent,
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
from ollm_widgets.protocol.snapshot import PROTOCOL_VERSION, Snapshot
from ollm_widgets.protocol.talk import ChatView
from ollm_widgets.protocol.views.memory import unchanged
from ollm_widgets.protocol.wire import as_plain_data, measured
from ollm_widgets.session.parts import PARTS, Part

if TYPE_CHECKING:
    from ollm_widgets.session.session import Session

_log = logging.getLogger(__name__)

# Jupyter's server drops messages above 1,000 a second; batches every 30 to 50 ms lose none.
BATCH_S = 0.04
# Text streams at its own pace: batches that cost much, as in a long conversation, come less
# often, so that a sender takes no more than this of one processor from the model that answers.
STREAM_SHARE = 0.005
STREAM_BATCH_S = 0.25
SNAPSHOT_S = 1.0
# A long one waits longer while things change: published each second, the text of an answer would
# cross many times. A page that comes meanwhile says hello and is sent everything at once.
SNAPSHOT_BYTES_PER_S = 32_000
# Some things change without a word: how full a memory is, whose turn it is, who else is there.
LOOK_S = 1.0
LOOK_AT_REST_S = 10.0
# What moves with each token of an answer.
_STREAMED: frozenset[Part] = frozenset({"chat", "activity"})
_UNTOLD: tuple[Part, ...] = ("loading", "memory", "chat", "activity")

_VIEWS: dict[Part, tuple[Callable[[Session], Any], type[Any]]] = {
    "header": (views.view_header, HeaderEvent),
    "models": (views.view_models, ModelsEvent),
    "plan": (views.view_plan, PlanEvent),
    "loading": (views.view_loading, LoadingEvent),
    "capabilities": (views.view_capabilities, CapabilitiesEvent),
    "memory": (views.view_memory, MemoryEvent),
    "chat": (views.view_chat, ChatEvent),
    "activity": (views.view_activity, ActivityEvent),
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
    draws
        The parts that the page draws: it is told of no others.
    """

    def __init__(
        self,
        session: Session,
        send: Callable[[dict[str, Any]], None],
        publish: Callable[[dict[str, Any]], None],
        draws: Collection[Part] = PARTS,
    ) -> None:
        self._draws = frozenset(draws)
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
        self._published_bytes = 0
        self._streamed_s = 0.0  # processor time of a batch of text, smoothed
        self._looked = time.monotonic()
        self._moving = False  # things change without a word, and fast
        self._closed = False
        self._unwatch = session.watch(self.note)
        self._thread = threading.Thread(target=self._run, name="ollm-sender", daemon=True)
        self._thread.start()

    def note(self, part: Part, job: str | None = None) -> None:
        """Remember that a part has changed; never blocks.

        While a model answers this is called for each token. The sender, once it knows of a
        change, comes by itself when the batch is due; to wake it for each one would cost more
        than all that it sends.
        """
        # Whoever takes `_dirty` looks at the part afterwards, and so sees this change too.
        noted = self._dirty
        if part not in self._draws:
            return
        if part in noted and job in (None, noted[part]):
            return
        with self._wake:
            # What moves with each token may be due later than what has come now.
            told = bool(self._dirty) and part in _STREAMED
            self._dirty[part] = job or self._dirty.get(part)
            if not told:
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
                if wanted or self._batch_due(flushed) <= time.monotonic():
                    dirty, self._dirty = self._dirty, {}
                if self._look_due():
                    self._looked = time.monotonic()
                    for part in self._draws.intersection(_UNTOLD):
                        dirty.setdefault(part, None)
            if dirty or wanted:
                flushed = time.monotonic()
            for reply in replies:
                self._attempt(self._send, as_plain_data(reply))
            if wanted:
                self._attempt(self._send_snapshot)
            elif dirty:
                self._attempt(self._send_changes, dirty)
            self._attempt(self._publish_when_due)
            self._attempt(self._see_whether_it_moves)

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
        return (
            bool(self._dirty and self._batch_due(flushed) <= now)
            or (self._stale and self._snapshot_due() <= now)
            or self._look_due()
        )

    def _batch_due(self, flushed: float) -> float:
        """When what has changed is sent, by the clock of `time.monotonic`."""
        if not self._dirty.keys() <= _STREAMED:
            return flushed + BATCH_S
        return flushed + max(min(self._streamed_s / STREAM_SHARE, STREAM_BATCH_S), BATCH_S)

    def _snapshot_due(self) -> float:
        """When a snapshot may be published again although something still runs."""
        return self._published + max(SNAPSHOT_S, self._published_bytes / SNAPSHOT_BYTES_PER_S)

    def _look_due(self) -> bool:
        return time.monotonic() - self._looked >= (LOOK_S if self._moving else LOOK_AT_REST_S)

    def _see_whether_it_moves(self) -> None:
        self._moving = self._session.in_motion

    def _patience(self, flushed: float) -> float:
        """Seconds until something may be due."""
        now = time.monotonic()
        waits = [self._looked + (LOOK_S if self._moving else LOOK_AT_REST_S) - now]
        if self._dirty:
            waits.append(self._batch_due(flushed) - now)
        if self._stale:
            waits.append(self._snapshot_due() - now)
        return max(min(waits), 0.001)

    def _send_changes(self, dirty: dict[Part, str | None]) -> None:
        began = time.thread_time()
        for part in PARTS:
            if part not in dirty:
                continue
            make, event = _VIEWS[part]
            view, before = make(self._session), self._sent.get(part)
            if view == before or (before and part == "memory" and unchanged(view, before)):
                continue
            self._sent[part] = view
            self._stale = True
            job = dirty[part] or self._session.job_of(part)
            added = added_text(before, view) if part == "chat" else None
            if added is not None:
                self._emit(ChatDeltaEvent, added, job)
            else:
                self._emit(event, view, job)
        if dirty.keys() <= _STREAMED:
            self._streamed_s += (time.thread_time() - began - self._streamed_s) / 8

    def _send_snapshot(self) -> None:
        self._stale = True
        snapshot = self._without_what_is_not_drawn(
            views.view_snapshot(self._session, self._seq + 1)
        )
        self._sent = {
            "models": snapshot.models,
            "plan": snapshot.plan,
            "loading": snapshot.loading,
            "capabilities": snapshot.capabilities,
            "memory": snapshot.memory,
            "chat": snapshot.chat,
            "activity": snapshot.activity,
            "header": HeaderView(title=snapshot.title),
        }
        self._emit(SnapshotEvent, snapshot, None)

    def _emit(self, event: Callable[..., Event], body: Any, job: str | None) -> None:
        self._seq += 1
        message = event(v=PROTOCOL_VERSION, seq=self._seq, job=job, body=body)
        self._send(as_plain_data(message))

    def _publish_when_due(self) -> None:
        if not self._stale:
            return
        due = self._snapshot_due() <= time.monotonic()
        if due or not (self._moving or self._session.running):
            self._stale = False
            self._published = time.monotonic()
            snapshot, self._published_bytes = measured(self._as_sent())
            self._publish(snapshot)

    def _as_sent(self) -> Snapshot:
        """What the page shows after event `seq`: what came later would arrive twice."""
        parts = {
            part: self._sent[part] if part in self._sent else make(self._session)
            for part, (make, _event) in _VIEWS.items()
        }
        header = parts.pop("header")
        snapshot = Snapshot(v=PROTOCOL_VERSION, seq=self._seq, title=header.title, **parts)
        return self._without_what_is_not_drawn(snapshot)

    def _without_what_is_not_drawn(self, snapshot: Snapshot) -> Snapshot:
        """Leave out the conversation, which alone is long, where the page does not show it."""
        if "chat" in self._draws:
            return snapshot
        return replace(snapshot, chat=replace(snapshot.chat, turns=()))


def added_text(before: ChatView | None, now: ChatView) -> TextDelta | None:
    """The text that makes `before` into `now`, None if anything else differs.

    The status line and the token count move with every token; they wait for the next whole
    view, so that streaming stays linear in the length of the text.
    """
    if before is None or not before.turns or len(before.turns) != len(now.turns):
        return None
    last, grown = before.turns[-1], now.turns[-1]
    if grown.text == last.text or not grown.text.startswith(last.text):
        return None
    if replace(last, text="") != replace(grown, text="") or _frame(before) != _frame(now):
        return None
    return TextDelta(turn=grown.id, text=grown.text[len(last.text) :])


def _frame(view: ChatView) -> ChatView:
    """What is around the last turn, without what moves with every token."""
    return replace(view, turns=view.turns[:-1], status="", context_tokens=0)
