"""One request to a model's thread: its items as they come, and ways to be rid of it."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from ollm_widgets.errors import Cancelled
from ollm_widgets.runtime.letting_go import let_go

T = TypeVar("T")

# A caller that waits looks up this often, so that an interrupt of the main thread and a
# cancel are seen; no work is lost in between, since results wake it at once.
WAIT_SLICE_S = 0.1

# What a request does on the worker's thread: it looks at the event, and emits items.
Work = Callable[[threading.Event, Callable[[T], None]], None]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Parameters
    ----------
    key
        Requests under the same one take their turns together.
    name
        What a person may know it by.
    """

    key: Hashable
    name: str

    @classmethod
    def of(cls, name: str | None) -> Caller:
        """Return the caller of that name; None is the calling thread."""
        if name is not None:
            return cls(name, name)
        thread = threading.current_thread()
        return cls((thread.ident, thread.name), thread.name)


class Line(Protocol):
    """Where jobs wait."""

    def withdraw(self, job: Job[T]) -> bool:
        """Take out a job that waits; False where its turn has come."""
        ...

    def abandoned(self, job: Job[T]) -> None:
        """Hear that nobody reads a job any more; the garbage collector may call it anywhere."""
        ...

    def position(self, job: Job[T]) -> int:
        """Requests that come before a job; 0 once its turn has come."""
        ...


class _End:
    """Marks the end of a job's items; carries its error, if it had one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Job(Generic[T]):
    """One request.

    Parameters
    ----------
    work
        What it does when its turn comes; let go of as soon as it is done.
    caller
        Who asks.
    unstarted
        Gives the one item of a request that is cancelled before its turn; None has it end with
        `Cancelled`.
    line
        Where it waits.
    """

    def __init__(
        self, work: Work[T], caller: Caller, unstarted: Callable[[], T] | None, line: Line
    ) -> None:
        self.caller = caller
        self.cancel = threading.Event()
        self.done = threading.Event()
        self._work: Work[T] | None = work
        self._unstarted = unstarted
        self._line = line
        self._items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._asked = time.monotonic()
        self._began: float | None = None
        self._outer: threading.Event | None = None

    @property
    def cancelled(self) -> bool:
        """Whether it is to end early."""
        return self.cancel.is_set() or (self._outer is not None and self._outer.is_set())

    @property
    def waited_s(self) -> float:
        """Seconds until its turn came, or so far."""
        return (time.monotonic() if self._began is None else self._began) - self._asked

    @property
    def ran_s(self) -> float:
        """Seconds since its turn came; 0 while it waits."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    def begin(self) -> None:
        """Note that its turn has come."""
        self._began = time.monotonic()

    def run(self) -> BaseException | None:
        """Do the work on the worker's thread; returns its error, which holds no tensors."""
        work = self._work
        try:
            if work is None or self.cancelled:
                return self._skip()
            work(self.cancel, self._items.put)
        except BaseException as error:  # the waiting caller gets it, whatever it is
            let_go(error)
            return error
        finally:
            self._work = self._unstarted = work = None
        return None

    def end(self, error: BaseException | None = None) -> None:
        """End the items, with an error or without."""
        self._work = self._unstarted = None
        self._items.put(_End(error))
        self.done.set()

    def stop(self) -> None:
        """Cancel it: at once while it waits, soon when it runs."""
        self.cancel.set()
        if self._line.withdraw(self):
            self.end(self._skip())

    def leave(self) -> None:
        """Cancel it, as nobody will read its items; safe wherever the collector calls it."""
        if not self.done.is_set():
            self.cancel.set()
            self._line.abandoned(self)

    def position(self) -> int:
        """Requests that come before it; 0 once its turn has come."""
        return 0 if self._began is not None else self._line.position(self)

    def next_item(self) -> T | _End:
        """Return the next item.

        Raises
        ------
        queue.Empty
            If none has come for a moment.
        """
        return self._items.get(timeout=WAIT_SLICE_S)

    def items(
        self,
        cancel: threading.Event | None = None,
        on_wait: Callable[[int], None] | None = None,
    ) -> Items[T]:
        """Return the items as they come; leaving early, or an interrupt, cancels the job.

        Parameters
        ----------
        cancel
            The caller's own event; once set, the job is cancelled and its last items
            still arrive.
        on_wait
            See `Items`.
        """
        self._outer = cancel
        return Items(self, cancel, on_wait)

    def _skip(self) -> BaseException | None:
        """Give what a request that never ran gives; returns its error."""
        if self._unstarted is None:
            return Cancelled("The request was cancelled before its turn.")
        self._items.put(self._unstarted())
        return None


class Items(Iterator[T]):
    """The items of a job, read by one thread. Close it, or drop it, to leave.

    Parameters
    ----------
    job
        Whose.
    cancel
        Looked at while it waits.
    on_wait
        Called on the thread that reads, while the request waits: with the number of requests
        before it, each time that it is another one, and with 0 when it waits no longer.
    """

    def __init__(
        self,
        job: Job[T],
        cancel: threading.Event | None,
        on_wait: Callable[[int], None] | None,
    ) -> None:
        self._job = job
        self._cancel = cancel
        self._on_wait = on_wait
        self._told = 0
        self._over = False
        self._finalizer = weakref.finalize(self, job.leave)
        # The runtime's own end at exit cancels what runs.
        self._finalizer.atexit = False

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        try:
            item = self._wait()
        except BaseException:
            self.close()
            raise
        if not isinstance(item, _End):
            return item
        self._over = True
        self._finalizer.detach()
        error = item.error
        try:
            raise StopIteration if error is None else error
        finally:
            # The error holds this frame, which is not to hold the error.
            del error, item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave: a request that waits never runs, one that runs is cancelled."""
        self._over = True
        self._finalizer()

    def _wait(self) -> T | _End:
        while True:
            if self._cancel is not None and self._cancel.is_set():
                self._job.stop()
                self._cancel = None
            self._tell_position()
            try:
                item = self._job.next_item()
            except queue.Empty:
                continue
            self._tell_position()
            return item

    def _tell_position(self) -> None:
        if self._on_wait is None:
            return
        position = self._job.position()
        if position != self._told:
            self._told = position
            self._on_wait(position)
