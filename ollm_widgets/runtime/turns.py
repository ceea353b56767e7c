"""Whose turn it is: callers take turns, and the requests of each come in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_NOBODY = object()


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request that runs or waits.

    Parameters
    ----------
    caller
        Who asks, as a person may know it.
    running
        Whether its turn has come.
    waited_s
        Seconds until its turn came, or so far.
    position
        Requests that come before it; 0 is the one that runs.
    ran_s
        Seconds since its turn came; 0 while it waits.
    """

    caller: str
    running: bool
    waited_s: float
    position: int
    ran_s: float = 0.0


class Turns(Generic[T]):
    """Requests that wait, by caller; used under the lock of whoever owns it.

    Between two turns of one caller, everybody else who waits has had one. A newcomer comes before
    the next request of the caller whose turn it is.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T]] = {}
        # Callers in the order of their turns; the one whose turn it is joins behind, afterwards.
        self._ring: deque[Hashable] = deque()
        self._now: Hashable = _NOBODY

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def add(self, caller: Hashable, request: T) -> None:
        """Have a request wait for a turn of its caller."""
        if caller not in self._waiting:
            self._waiting[caller] = deque()
            if caller != self._now:
                self._ring.append(caller)
        self._waiting[caller].append(request)

    def take(self) -> T:
        """Begin the next turn, after the last one has ended.

        Raises
        ------
        IndexError
            If nothing waits.
        """
        self._now = self._ring.popleft()
        request = self._waiting[self._now].popleft()
        self._drop_if_empty(self._now)
        return request

    def end(self) -> None:
        """End the turn; what else its caller wants waits for the next round."""
        caller, self._now = self._now, _NOBODY
        if caller in self._waiting:
            self._ring.append(caller)

    def remove(self, caller: Hashable, request: T) -> bool:
        """Take a request out that does not want its turn any more; whether it waited."""
        waiting = self._waiting.get(caller, deque())
        if request not in waiting:
            return False
        waiting.remove(request)
        self._drop_if_empty(caller)
        return True

    def in_order(self) -> list[T]:
        """Return what waits in the order in which it will run, if nobody comes or leaves."""
        callers = [*self._ring, self._now] if self._now in self._waiting else self._ring
        queues = [list(self._waiting[caller]) for caller in callers]
        rounds = range(max(map(len, queues), default=0))
        return [queue[turn] for turn in rounds for queue in queues if turn < len(queue)]

    def _drop_if_empty(self, caller: Hashable) -> None:
        if not self._waiting[caller]:
            del self._waiting[caller]
            if caller in self._ring:
                self._ring.remove(caller)
