"""One thread that does things in the order in which they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from ollm_widgets.errors import RuntimeClosedError

T = TypeVar("T")


class Background:
    """A daemon thread that starts with the first task; call `close`.

    Parameters
    ----------
    name
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, task: Callable[[], T]) -> Future[T]:
        """Do `task` after all tasks before it."""
        if self._closed:
            raise RuntimeClosedError("This KV cache was closed.", hint="Build another one.")
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._tasks,), name=self._name, daemon=True
            )
            self._thread.start()
        future: Future[T] = Future()
        self._tasks.put((future, task))
        return future

    def close(self) -> None:
        """Finish what was asked for and end the thread; may be called again."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._tasks.put(None)
        # The garbage collector may call this from any thread.
        if thread is not threading.current_thread():
            thread.join()


def _work(tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (item := tasks.get()) is not None:
        future, task = item
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)
        # Not kept until the next one comes: it may hold the last reference to a large buffer.
        del item, future, task
