"""Events of a manager: told in order, outside every lock, and remembered for a while."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from ollm_widgets.runtime.residency.records import RuntimeEvent

HISTORY = 200
Subscriber: TypeAlias = Callable[[RuntimeEvent], None]

_log = logging.getLogger(__name__)


class News:
    """What has happened, and who wants to know.

    `add` is called under the manager's lock, which gives the order; `deliver` outside it. One
    thread at a time delivers, so that nobody hears of things in another order; who comes
    meanwhile goes on at once.
    """

    def __init__(self) -> None:
        self._pending: deque[RuntimeEvent] = deque()
        self._history: deque[RuntimeEvent] = deque(maxlen=HISTORY)
        self._subscribers: tuple[Subscriber, ...] = ()
        self._lock = threading.Lock()
        self._delivering = threading.Lock()

    def add(self, event: RuntimeEvent) -> None:
        """Note that something happened."""
        self._history.append(event)
        self._pending.append(event)

    def history(self) -> tuple[RuntimeEvent, ...]:
        """Return the last events, the newest last; `add` must not run meanwhile."""
        return tuple(self._history)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Tell `subscriber` of each event; returns what ends that."""
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._lock:
                rest = list(self._subscribers)
                if subscriber in rest:
                    rest.remove(subscriber)
                self._subscribers = tuple(rest)

        return unsubscribe

    def deliver(self) -> None:
        """Tell what has not been told, unless another thread is about it."""
        # Looked at again once the right is given back: what came just then nobody else tells.
        while self._pending and self._delivering.acquire(blocking=False):
            try:
                self._tell_all()
            finally:
                self._delivering.release()

    def _tell_all(self) -> None:
        while self._pending:
            event = self._pending.popleft()
            for subscriber in self._subscribers:
                try:
                    subscriber(event)
                except Exception:
                    _log.exception("A subscriber failed at %r.", event)
