"""Requests that this process has under way in a runtime of another machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.runtime.activity import Activity, Watcher
from ollm_widgets.runtime.job import Caller, Job, Work
from ollm_widgets.runtime.turns import QueuedRequest

T = TypeVar("T")


class RemoteJob(Job[T], Generic[T]):
    """A request whose turn comes on another machine; `ahead` is what the host said last."""

    ahead = 0

    def waits(self, ahead: int) -> None:
        """Note how many requests come before it; 0 begins its turn."""
        self.ahead = ahead
        if ahead == 0 and self.ran_s == 0:
            self.begin()


class Outbox:
    """Sends each request on a thread of its own; callers take turns where it arrives.

    It is to a `RemoteRuntime` what its worker is to a `LoadedRuntime`.

    Parameters
    ----------
    name
        Of the model, for the names of threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # The collector may close it from within one of its own threads, at any line.
        self._lock = threading.RLock()
        self._ended = threading.Condition(self._lock)
        self._jobs: list[RemoteJob[Any]] = []
        self._closed = False
        self._activity = Activity(self._lock)

    # ------------------------------------------------------------------ what goes on

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        with self._lock:
            return bool(self._jobs)

    @property
    def queue(self) -> tuple[QueuedRequest, ...]:
        """The requests that run or wait, in the order in which they came."""
        with self._lock:
            jobs = tuple(self._jobs)
        return tuple(
            QueuedRequest(job.caller.name, job.ran_s > 0, job.waited_s, job.position(), job.ran_s)
            for job in jobs
        )

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with each change of `busy`; see `Activity.watch`."""
        return self._activity.watch(watcher)

    # ------------------------------------------------------------------ requests

    def submit(
        self,
        work: Callable[[RemoteJob[T]], Work[T]],
        caller: str | None = None,
        unstarted: Callable[[], T] | None = None,
    ) -> RemoteJob[T]:
        """Send a request at once.

        Parameters
        ----------
        work
            Makes what it does, given the job, which it tells of its turn.
        caller
            Whose turn it takes there; by default that of the calling thread.
        unstarted
            See `Job`.

        Raises
        ------
        RuntimeClosedError
            After `close`.
        """

        def run(stop: threading.Event, emit: Callable[[T], None]) -> None:
            work(job)(stop, emit)

        job: RemoteJob[T] = RemoteJob(run, Caller.of(caller), unstarted, self)
        with self._lock:
            if self._closed:
                raise RuntimeClosedError(
                    "This runtime was closed.", hint="Load the model again to use it."
                )
            self._jobs.append(job)
            self._activity.note(True)
        self._activity.tell()
        threading.Thread(
            target=self._run, args=(job,), name=f"ollm-request-{self._name}", daemon=True
        ).start()
        return job

    def cancel_running(self) -> bool:
        """Cancel the request that came first; False where none is under way."""
        with self._lock:
            first = self._jobs[0] if self._jobs else None
        if first is not None:
            first.cancel.set()
        return first is not None

    def withdraw(self, job: Job[Any]) -> bool:
        """Take out a job that waits: none waits here, the thread of each sees its cancel."""
        return False

    def abandoned(self, job: Job[Any]) -> None:
        """Hear that nobody reads a job any more: its thread sees its cancel."""

    def position(self, job: Job[Any]) -> int:
        """Requests that come before a job where it arrived."""
        return job.ahead if isinstance(job, RemoteJob) else 0

    # ------------------------------------------------------------------ the end

    def let_go(self) -> None:
        """Cancel everything and refuse what comes, without waiting for anybody."""
        with self._lock:
            self._closed = True
            jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel.set()

    def close(self, timeout_s: float = 30.0) -> bool:
        """Cancel everything, refuse what comes, and wait for the threads.

        Returns
        -------
        bool
            Whether all have ended within `timeout_s`.
        """
        self.let_go()
        with self._ended:
            return self._ended.wait_for(lambda: not self._jobs, timeout_s)

    def shut_if_idle(self) -> bool:
        """Refuse what comes from now on, unless a request is under way; whether none is."""
        with self._lock:
            if self._jobs:
                return False
            self._closed = True
            return True

    # ------------------------------------------------------------------ the threads

    def _run(self, job: RemoteJob[Any]) -> None:
        error = job.run()
        with self._ended:
            self._jobs.remove(job)
            self._activity.note(bool(self._jobs))
            self._ended.notify_all()
        # In this order: who has seen the end finds the runtime idle.
        job.end(error)
        del job, error
        self._activity.tell()
