"""Threads that do a session's work in order, one kind of work each."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from contextvars import ContextVar

Task = Callable[[threading.Event], None]

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)

# The id of the job that runs on this thread, so that changes can say who made them.
current_job: ContextVar[str | None] = ContextVar("ollm_job", default=None)


class Lane:
    """Runs tasks one after another on a thread of its own, started with the first.

    The thread ends after it has been idle for a while and comes back with the next task, so
    that a forgotten session costs nothing.
    """

    IDLE_S = 30.0

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._tasks: queue.SimpleQueue[tuple[str, Task, threading.Event]] = queue.SimpleQueue()
        self._waiting: list[threading.Event] = []
        self._thread: threading.Thread | None = None

    def submit(self, task: Task) -> str:
        """Queue a task; returns the id of its job, e.g. ``chat-7``."""
        job, cancel = f"{self._name}-{next(_numbers)}", threading.Event()
        with self._lock:
            self._waiting.append(cancel)
            self._tasks.put((job, task, cancel))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"ollm-{self._name}", daemon=True
                )
                self._thread.start()
        return job

    def cancel(self) -> None:
        """Set the cancel event of everything that runs or waits."""
        with self._lock:
            for event in self._waiting:
                event.set()

    def _run(self) -> None:
        while True:
            try:
                job, task, cancel = self._tasks.get(timeout=self.IDLE_S)
            except queue.Empty:
                with self._lock:
                    if not self._tasks.empty():
                        continue
                    self._thread = None
                    return
            current_job.set(job)
            try:
                task(cancel)
            except Exception:  # one task's bug must not end the lane for all later ones
                _log.exception("A task of ollm's %s lane failed.", self._name)
            finally:
                with self._lock:
                    self._waiting.remove(cancel)
