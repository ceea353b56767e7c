"""A page as the kernel knows it: it sends commands, and draws itself from what comes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any

from ollm_widgets import Session
from ollm_widgets.protocol.inbox import Inbox
from ollm_widgets.protocol.outbox import Outbox
from ollm_widgets.session.parts import PARTS, Part

PATIENCE_S = 15.0
Message = dict[str, Any]


class Page:
    """Both ends of the connection of one view, with a wire of strict JSON between them."""

    def __init__(self, session: Session, draws: Collection[Part] = PARTS) -> None:
        self.messages: list[Message] = []
        self.published: list[Message] = []
        self._news = threading.Condition()
        self._asked = 0
        self.outbox = Outbox(session, self.take, self._publish, draws)
        self.inbox = Inbox(session, self.outbox)

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.outbox.close()

    # ------------------------------------------------------------------ up

    def tell(self, name: str, **body: object) -> str:
        """Send a command; gives its id."""
        self._asked += 1
        command_id = f"page-{self._asked}"
        self.inbox.receive({"v": 1, "id": command_id, "name": name, "body": body})
        return command_id

    def ask(self, name: str, **body: object) -> Message:
        """Send a command and wait for its reply."""
        command_id = self.tell(name, **body)
        self.until(lambda: self.replies(command_id))
        (reply,) = self.replies(command_id)
        return reply

    def say(self, content: object) -> list[Message]:
        """Send anything at all; gives every reply that came before that to a later command."""
        before = len(self.replies())
        self.inbox.receive(content)
        fence = self.ask("stop")
        replies = self.replies()[before:]
        assert replies[-1] == fence
        return replies[:-1]

    # ------------------------------------------------------------------ down

    def take(self, message: Message) -> None:
        """What the sender calls; as on the wire, the message is JSON in UTF-8 without NaN."""
        wire = json.dumps(message, allow_nan=False, ensure_ascii=False).encode("utf-8")
        with self._news:
            self.messages.append(json.loads(wire))
            self._news.notify_all()

    def replies(self, command_id: str | None = None) -> list[Message]:
        """Replies so far, all or those to one command."""
        return [
            one
            for one in tuple(self.messages)
            if one["kind"] in ("ack", "error") and command_id in (None, one["id"])
        ]

    def events(self, kind: str | None = None) -> list[Message]:
        """Events so far, all or those of one kind."""
        return [one for one in tuple(self.messages) if "seq" in one and kind in (None, one["kind"])]

    def until(self, holds: Callable[[], object]) -> None:
        """Wait until `holds`, looked at after each message."""
        deadline = time.monotonic() + PATIENCE_S
        with self._news:
            while not holds():
                assert time.monotonic() < deadline, "the page was not told"
                self._news.wait(0.1)

    def until_in_step(self) -> None:
        """Wait until what is drawn is what the latest published snapshot says."""
        self.until(
            lambda: (
                self.published
                and self.events("snapshot")
                and steady(self.drawn) == steady(self.published[-1])
            )
        )

    @property
    def drawn(self) -> Message:
        """What the page shows: the latest snapshot event, and the events after it."""
        events = self.events()
        start = max(index for index, event in enumerate(events) if event["kind"] == "snapshot")
        return draw(events[start]["body"], events[start + 1 :])

    def _publish(self, snapshot: Message) -> None:
        wire = json.dumps(snapshot, allow_nan=False, ensure_ascii=False).encode("utf-8")
        with self._news:
            self.published.append(json.loads(wire))
            self._news.notify_all()


def draw(snapshot: Message, events: list[Message]) -> Message:
    """Apply the events that a snapshot does not hold yet, as `js/src/state` does."""
    state = json.loads(json.dumps(snapshot))
    for event in events:
        if event["seq"] <= state["seq"]:
            continue
        assert event["seq"] == state["seq"] + 1, "a gap"
        state["seq"] = event["seq"]
        kind, body = event["kind"], event["body"]
        if kind == "header":
            state["title"] = body["title"]
        elif kind == "chat.delta":
            (turn,) = (one for one in state["chat"]["turns"] if one["id"] == body["turn"])
            turn["text"] += body["text"]
        elif kind == "snapshot":
            state = json.loads(json.dumps(body))
        else:
            state[kind] = json.loads(json.dumps(body))
    return state


def steady(snapshot: Message) -> Message:
    """A snapshot without what another view of the same state may differ in."""
    return {
        name: part
        for name, part in snapshot.items()
        if name not in ("seq", "memory")  # how full the machine is changes by itself
    } | {"resident": snapshot["memory"]["items"]}
