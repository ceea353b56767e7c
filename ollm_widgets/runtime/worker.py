"""The one thread that owns a model: requests queue, callers wait and can leave."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ollm_widgets.errors import RuntimeClosedError

T = TypeVar("T")

# A caller that waits looks up this often, so that an interrupt of the main thread and a
# cancel are seen; no work is lost in between, since results wake it at once.
WAIT_SLICE_S = 0.1


class _End:
    """Marks the end of a job's items; carries its error, if it had one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


# What a request does on the worker's thread: it looks at the event, and emits items.
Work = Callable[[threading.Event, Callable[[T], None]], None]


class Job(Generic[T]):
    """One request: its items as they come, and a way to cancel it."""

    def __init__(self, work: Work[T]) -> None:
        self._work = work
        self._items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self.cancel = threading.Event()
        self.done = threading.Event()

    def run(self) -> None:
        """Do the work; called on the worker's thread."""
        error: BaseException | None = None
        try:
            self._work(self.cancel, self._items.put)
        except BaseException as caught:  # the waiting caller gets it, whatever it is
            error = caught
        finally:
            self.abandon(error)

    def abandon(self, error: BaseException | None) -> None:
        """End the job, with an error or without."""
        self._items.put(_End(error))
        self.done.set()

    def items(self, outer_cancel: threading.Event | None = None) -> Iterator[T]:
        """Yield items as they come; leaving early, or an interrupt, cancels the job.

        Parameters
        ----------
        outer_cancel
            The caller's own event; once set, the job is cancelled and its last items
            still arrive.
        """
        try:
            while True:
                if outer_cancel is not None and outer_cancel.is_set():
                    self.cancel.set()
                try:
                    item = self._items.get(timeout=WAIT_SLICE_S)
                except queue.Empty:
                    continue
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                yield item
        finally:
            self.cancel.set()


class ModelWorker:
    """Runs jobs one after another on its own thread."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job[object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._pending: list[Job[object]] = []
        self._thread = threading.Thread(target=self._run, name=f"ollm-model-{name}", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        with self._lock:
            return bool(self._pending)

    def submit(self, work: Work[T]) -> Job[T]:
        """Queue a job.

        Raises
        ------
        RuntimeClosedError
            After `close`.
        """
        job = Job(work)
        with self._lock:
            if self._closed:
                raise RuntimeClosedError(
                    "This runtime was closed.", hint="Load the model again to use it."
                )
            self._pending.append(job)  # type: ignore[arg-type]  # only its run, cancel and abandon are used
            self._jobs.put(job)  # type: ignore[arg-type]  # the same
        return job

    def close(self, timeout_s: float = 30.0) -> bool:
        """Cancel what runs, refuse what waits, end the thread.

        Returns
        -------
        bool
            Whether the thread has ended within `timeout_s`.
        """
        with self._lock:
            already = self._closed
            self._closed = True
            pending = list(self._pending)
        for job in pending:
            job.cancel.set()
        if not already:
            self._jobs.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._closed:
                job.abandon(RuntimeClosedError("This runtime was closed while the request waited."))
            else:
                job.run()
            with self._lock:
                self._pending.remove(job)
            del job  # an idle worker keeps no request, and so no tensors, alive
