"""What a host works on for its clients, and ways to end it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["load", "answer"]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A load or an answer for a client.

    Parameters
    ----------
    kind, reservation
        What it goes by.
    client
        Who asked.
    cancel
        Ends it.
    """

    kind: Kind
    reservation: str
    client: str
    cancel: threading.Event = field(default_factory=threading.Event)


class UnderWay:
    """The works of a host. Used on its event loop alone."""

    def __init__(self) -> None:
        self._works: dict[Work, None] = {}  # in the order in which they came

    @contextmanager
    def work(self, kind: Kind, reservation: str, client: str) -> Iterator[Work]:
        """Note a work for as long as somebody reads what comes of it; then it ends.

        A call that comes twice was sent again by Ray after its connection was cut, so that nobody
        reads what comes of the first one.
        """
        for earlier in self._works:
            if (earlier.kind, earlier.reservation) == (kind, reservation):
                earlier.cancel.set()
        work = Work(kind, reservation, client)
        self._works[work] = None
        try:
            yield work
        finally:
            work.cancel.set()
            del self._works[work]

    def stop(self, reservation: str) -> bool:
        """End a work as its caller could; False where there is none."""
        return self._end([one for one in self._works if one.reservation == reservation]) > 0

    def abandon(self, client: str) -> int:
        """End all works of a client that is gone; returns how many there were."""
        return self._end([one for one in self._works if one.client == client])

    def _end(self, works: list[Work]) -> int:
        # The newest first: what waits for its turn does not get it from what ends before.
        for work in reversed(works):
            work.cancel.set()
        return len(works)
