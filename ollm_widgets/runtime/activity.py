"""Tells who watches a runtime when it begins to be busy, and when it is idle again."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

_log = logging.getLogger(__name__)

# Called with True when the first request comes, and with False when the last one has ended.
Watcher: TypeAlias = Callable[[bool], None]


class Activity:
    """Changes between busy and idle, told in their order.

    Parameters
    ----------
    lock
        Of whoever is busy; no watcher is called under it.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._watchers: tuple[Watcher, ...] = ()
        self._busy = False
        self._changes: deque[bool] = deque()
        self._telling = False

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with each change, on whatever thread.

        Returns
        -------
        callable
            Ends it; calling it twice is harmless.
        """
        with self._lock:
            self._watchers = (*self._watchers, watcher)

        def unwatch() -> None:
            with self._lock:
                self._watchers = tuple(one for one in self._watchers if one is not watcher)

        return unwatch

    def note(self, busy: bool) -> None:
        """Note how it is now; told with the next `tell`. Called under the lock."""
        if busy != self._busy:
            self._busy = busy
            self._changes.append(busy)

    @property
    def is_told(self) -> bool:
        """Whether there is nothing that a call of `tell` would see to. Read under the lock."""
        return self._telling or not self._changes

    def tell(self) -> None:
        """Tell the watchers what has changed; one thread at a time, which sees to all of it.

        Called without the lock.
        """
        while True:
            with self._lock:
                if self.is_told:
                    return
                self._telling = True
                change, watchers = self._changes.popleft(), self._watchers
            for watcher in watchers:
                try:
                    watcher(change)
                except Exception:
                    _log.exception("A watcher of a runtime's activity failed")
            with self._lock:
                self._telling = False
