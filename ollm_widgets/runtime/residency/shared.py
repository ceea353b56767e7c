"""The ledger that several threads share: one lock, and the news of what happened under it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ollm_widgets.runtime.residency.ledger import Ledger
from ollm_widgets.runtime.residency.news import News
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.runtime.residency.records import (
    EventKind,
    MemoryChange,
    Resident,
    RuntimeEvent,
)


class SharedLedger:
    """Opens the ledger to one thread at a time.

    Nothing is loaded, closed, moved or told while it is open. The lock is not reentrant: the
    collector may run while it is held, and what it collects must not come back in here.

    Parameters
    ----------
    ledger
        What is shared.
    changed
        Called after each change, outside the lock; it must cost next to nothing.
    """

    def __init__(self, ledger: Ledger, changed: Callable[[], None]) -> None:
        self._ledger = ledger
        self._changed = changed
        self._lock = threading.Condition(threading.Lock())
        self.news = News()

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._ledger.version

    @property
    def options(self) -> ResidencyOptions:
        """Limits and times by now."""
        return self._ledger.options

    @contextmanager
    def open(self) -> Iterator[Ledger]:
        """Hold the ledger; those who wait for a change look again afterwards."""
        with self._lock:
            before = self._ledger.version
            try:
                yield self._ledger
            finally:
                has_changed = self._ledger.version != before
                if has_changed:
                    self._lock.notify_all()
        self.news.deliver()
        if has_changed:
            self._changed()

    def tell(
        self,
        kind: EventKind,
        about: Resident | str,
        detail: str = "",
        change: MemoryChange | None = None,
    ) -> None:
        """Note an event while the ledger is open; it is told once it is not."""
        runtime_id, name = ("", about) if isinstance(about, str) else (about.id, about.name)
        self.news.add(RuntimeEvent(kind, runtime_id, name, detail, change))

    def wait(self, version: int, timeout_s: float) -> None:
        """Wait until the ledger is no longer as it was at `version`, at most so long."""
        with self._lock:
            if self._ledger.version == version:
                self._lock.wait(timeout_s)
