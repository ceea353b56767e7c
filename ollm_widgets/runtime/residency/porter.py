"""What must not be done where it is noticed: done by a thread of its own, soon."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from ollm_widgets.runtime.residency.records import Resident
    from ollm_widgets.runtime.residency.surroundings import HeldRuntime, Neighbours

# Other kernels see what this one keeps as often as this, however fast it changes.
_SHOWN_EVERY_S = 0.5


class Employer(Protocol):
    """Whom a porter works for."""

    def give_back(self, resident: Resident) -> None:
        """Release a lease that was collected."""
        ...

    def shown(self) -> Sequence[HeldRuntime]:
        """Return what other kernels shall see."""
        ...


class _Show:
    """Asks to show the others what this kernel keeps."""


class _End:
    """Asks to end."""


_Order: TypeAlias = "Resident | _Show | _End"


class Porter:
    """Releases collected leases, and shows other kernels what this one keeps.

    The collector runs anywhere, also where a lock is held or an event is told. A `SimpleQueue`
    is the one thing that may be used there. The employer is known weakly: one that was forgotten
    is collected, and then the porter goes too.

    Parameters
    ----------
    employer
        The manager.
    neighbours
        Who is shown what it keeps; None shows nobody.
    clock
        Seconds, so that nothing is shown more often than can be seen.
    """

    def __init__(
        self, employer: Employer, neighbours: Neighbours | None, clock: Callable[[], float]
    ) -> None:
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._employer = weakref.ref(employer)
        self._neighbours = neighbours
        self._clock = clock
        self._show_is_ordered = False
        self._starting = threading.Lock()
        self._has_started = False

    def start(self) -> None:
        """Begin to work; calling it again does nothing."""
        with self._starting:
            if not self._has_started:
                self._has_started = True
                threading.Thread(target=self._work, name="ollm-porter", daemon=True).start()

    def give_back(self, resident: Resident) -> None:
        """Release a lease, soon; may be called by the collector."""
        self._orders.put(resident)

    def show(self) -> None:
        """Show what is kept, soon."""
        if self._neighbours is not None and not self._show_is_ordered:
            self._show_is_ordered = True
            self._orders.put(_Show())

    def end(self) -> None:
        """End, once what was ordered is done; may be called by the collector."""
        self._orders.put(_End())

    def _work(self) -> None:
        due_at: float | None = None  # when what is kept is shown next
        next_at = 0.0
        while True:
            wait_s = None if due_at is None else max(due_at - self._clock(), 0.0)
            try:
                order = self._orders.get(timeout=wait_s)
            except queue.Empty:
                self._show()
                due_at, next_at = None, self._clock() + _SHOWN_EVERY_S
                continue
            if isinstance(order, _End):
                break
            if isinstance(order, _Show):
                due_at = next_at
            else:
                self._release(order)
            del order  # an idle porter keeps no runtime alive
        if self._neighbours is not None:
            self._neighbours.close()

    def _release(self, resident: Resident) -> None:
        employer = self._employer()
        if employer is not None:
            employer.give_back(resident)

    def _show(self) -> None:
        self._show_is_ordered = False
        employer = self._employer()
        if employer is not None and self._neighbours is not None:
            self._neighbours.publish(employer.shown())
