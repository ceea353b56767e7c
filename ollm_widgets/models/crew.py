"""A few threads that work while the caller reports progress and listens for a cancel."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar

from ollm_widgets.models.job_control import CancelFlag, raise_if_cancelled

Task = Callable[[threading.Event], None]
Result = TypeVar("Result")

_POLL_S = 0.1
# How long a leaving caller waits for work that may be stuck in a silent connection.
_FAREWELL_S = 0.5


class Crew:
    """Threads that outlive neither their stop signal nor the process.

    A caller who leaves early does not wait for a thread that hangs in a connection: the thread
    ends at its next look at the stop signal, and `farewell` is called when the last has ended.

    Parameters
    ----------
    size
        Threads at most.
    cancel
        Looked at every tenth of a second.
    operation
        What is being done, for the message of `Cancelled`.
    """

    def __init__(self, size: int, cancel: CancelFlag | None, operation: str) -> None:
        self.stop = threading.Event()
        self.farewell: Callable[[], None] | None = None
        self._size = size
        self._cancel = cancel
        self._operation = operation
        self._running = 0
        self._left = False
        self._changed = threading.Condition()
        self._surprise: BaseException | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop.set()
        with self._changed:
            self._changed.wait_for(lambda: not self._running, _FAREWELL_S)
            self._left = True
            last = not self._running
        if last:
            self._say_farewell()

    def run(self, tasks: Iterable[Task], tick: Callable[[], None] | None = None) -> None:
        """Run tasks until all have ended; a task looks at the event that it is given.

        Parameters
        ----------
        tasks
            What to do; they report their own failures.
        tick
            Called on the calling thread while they run, and once at the end.

        Raises
        ------
        Cancelled
            When `cancel` was set.
        """
        waiting = deque(tasks)
        with self._changed:
            self._running += min(self._size, len(waiting))
            count = self._running
        for _ in range(count):
            threading.Thread(
                target=self._work, args=(waiting,), name="ollm-download", daemon=True
            ).start()
        while True:
            with self._changed:
                ended = self._changed.wait_for(lambda: not self._running, _POLL_S)
            raise_if_cancelled(self._cancel, self._operation)
            if self._surprise is not None:
                raise self._surprise
            if tick is not None:
                tick()
            if ended:
                return

    def call(self, function: Callable[[], Result]) -> Result:
        """Run one function, which must not raise, and give its result."""
        results: list[Result] = []
        self.run([lambda _stop: results.append(function())])
        return results[0]

    def _work(self, waiting: deque[Task]) -> None:
        try:
            while waiting and not self.stop.is_set():
                try:
                    task = waiting.popleft()
                except IndexError:
                    break
                task(self.stop)
        except BaseException as error:  # carried over to the caller's thread, which raises it
            self._surprise = error
            self.stop.set()
        finally:
            with self._changed:
                self._running -= 1
                last = self._left and not self._running
                self._changed.notify_all()
            if last:
                self._say_farewell()

    def _say_farewell(self) -> None:
        if self.farewell is not None:
            self.farewell()
