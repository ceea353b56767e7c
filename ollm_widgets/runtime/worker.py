"""The one thread that owns a model: callers take turns, and who waits can leave."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.runtime.activity import Activity, Watcher
from ollm_widgets.runtime.job import WAIT_SLICE_S, Caller, Job, Work
from ollm_widgets.runtime.turns import QueuedRequest, Turns

__all__ = ["ITSELF", "WAIT_SLICE_S", "Job", "ModelWorker", "Work"]

T = TypeVar("T")

# Who asks for what a runtime does of its own accord: saving keys and values, moving layers.
ITSELF = "the runtime itself"


class ModelWorker:
    """Runs jobs one at a time on its own thread; callers take turns."""

    def __init__(self, name: str) -> None:
        # The collector may close a worker from within its own thread, at any line.
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._turns: Turns[Job[Any]] = Turns()
        self._running: Job[Any] | None = None
        self._left: queue.SimpleQueue[Job[Any]] = queue.SimpleQueue()
        self._closed = False
        self._activity = Activity(self._lock)
        self._thread = threading.Thread(target=self._run, name=f"ollm-model-{name}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ what goes on

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        with self._lock:
            self._settle()
            return self._running is not None or len(self._turns) > 0

    @property
    def queue(self) -> tuple[QueuedRequest, ...]:
        """The job that runs, and those that wait, in the order of their turns."""
        with self._lock:
            jobs = self._in_order()
            return tuple(
                QueuedRequest(
                    job.caller.name, job is self._running, job.waited_s, position, job.ran_s
                )
                for position, job in enumerate(jobs)
            )

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with each change of `busy`; see `Activity.watch`."""
        return self._activity.watch(watcher)

    # ------------------------------------------------------------------ jobs

    def submit(
        self,
        work: Work[T],
        caller: str | None = None,
        unstarted: Callable[[], T] | None = None,
    ) -> Job[T]:
        """Queue a job.

        Parameters
        ----------
        work
            What it does.
        caller
            Whose turn it takes; by default that of the calling thread.
        unstarted
            See `Job`.

        Raises
        ------
        RuntimeClosedError
            After `close`.
        """
        job = Job(work, Caller.of(caller), unstarted, self)
        with self._wake:
            if self._closed:
                raise RuntimeClosedError(
                    "This runtime was closed.", hint="Load the model again to use it."
                )
            self._turns.add(job.caller.key, job)
            self._note_activity()
            self._wake.notify()
        self._activity.tell()
        return job

    def cancel_running(self) -> bool:
        """Cancel the job that runs; False where none does."""
        with self._lock:
            running = self._running
        if running is not None:
            running.cancel.set()
        return running is not None

    def cancel_all(self) -> None:
        """Cancel the job that runs and all that wait, as their callers could."""
        with self._lock:
            jobs = self._in_order()
        for job in jobs:
            job.stop()

    def withdraw(self, job: Job[Any]) -> bool:
        """Take out a job that waits; False where its turn has come, or it has left already."""
        with self._lock:
            waited = self._turns.remove(job.caller.key, job)
            self._note_activity()
        self._activity.tell()
        return waited

    def abandoned(self, job: Job[Any]) -> None:
        """Take a job out when next somebody looks: who calls this may hold any lock."""
        self._left.put(job)

    def position(self, job: Job[Any]) -> int:
        """Jobs that come before one; 0 once its turn has come."""
        with self._lock:
            jobs = self._in_order()
            return jobs.index(job) if job in jobs else 0

    # ------------------------------------------------------------------ the end

    def close(self, timeout_s: float = 30.0) -> bool:
        """Cancel what runs, refuse what waits, end the thread.

        Returns
        -------
        bool
            Whether the thread has ended within `timeout_s`.
        """
        with self._wake:
            refused = self._shut()
            running = self._running
        if running is not None:
            running.cancel.set()
        for job in refused:
            job.end(RuntimeClosedError("This runtime was closed while the request waited."))
        self._activity.tell()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def shut_if_idle(self) -> bool:
        """Refuse jobs from now on, unless one runs or waits; whether there is none to come."""
        with self._wake:
            if self.busy:
                return False
            self._shut()
            return True

    def _shut(self) -> list[Job[Any]]:
        """Take no more jobs; return those that wait."""
        self._closed = True
        self._settle()
        refused = self._turns.in_order()
        for job in refused:
            self._turns.remove(job.caller.key, job)
        self._note_activity()
        self._wake.notify()
        return refused

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while (job := self._next()) is not None:
            error = job.run()
            with self._lock:
                self._running = None
                self._turns.end()
                self._note_activity()
            # In this order: who has seen the end finds the runtime idle.
            job.end(error)
            # An idle worker keeps no request, and so no tensors, alive.
            del job, error
            self._activity.tell()

    def _next(self) -> Job[Any] | None:
        while True:
            with self._wake:
                self._settle()
                if len(self._turns):
                    self._running = self._turns.take()
                    self._running.begin()
                    return self._running
                if self._closed:
                    return None
                if self._activity.is_told:
                    self._wake.wait()
            self._activity.tell()

    # ------------------------------------------------------------------ under the lock

    def _in_order(self) -> list[Job[Any]]:
        self._settle()
        running = [] if self._running is None else [self._running]
        return [*running, *self._turns.in_order()]

    def _settle(self) -> None:
        """Take out the jobs that nobody waits for any more."""
        while not self._left.empty():
            job = self._left.get()
            if self._turns.remove(job.caller.key, job):
                job.end()
        self._note_activity()

    def _note_activity(self) -> None:
        self._activity.note(self._running is not None or len(self._turns) > 0)
