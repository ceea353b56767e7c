"""The thread on which everything waits that comes from the cluster.

Ray blocks where it waits. Here it waits on an event loop of its own, so that whoever asked sees a
cancel, or an interrupt of the notebook, within a tenth of a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from ollm_widgets.errors import Cancelled
from ollm_widgets.runtime.worker import WAIT_SLICE_S

T = TypeVar("T")


class Post:
    """An event loop on a thread of its own, begun with its first task."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def send(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin `work`; nobody has to wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._running())

    def begin(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Begin some work from wherever the collector happens to run: no lock is taken here."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(lambda: self.send(quietly(make())))

    def ask(
        self,
        work: Coroutine[Any, Any, T],
        cancel: threading.Event | None = None,
        timeout_s: float | None = None,
        undo: Callable[[T], Coroutine[Any, Any, object]] | None = None,
    ) -> T:
        """Wait for `work`; leaving early ends it.

        Parameters
        ----------
        undo
            For work that must not be left half done: it goes on then, and what it gives is undone
            by this, as nobody takes it.

        Raises
        ------
        Cancelled
            When `cancel` was set first.
        TimeoutError
            When it has taken longer than `timeout_s`.
        """
        future = self.send(work)
        try:
            self._wait(future, cancel, timeout_s)
            return future.result()
        except BaseException:
            if undo is None:
                future.cancel()
            else:
                future.add_done_callback(functools.partial(self._undo, undo))
            raise

    def _wait(
        self, future: Future[Any], cancel: threading.Event | None, timeout_s: float | None
    ) -> None:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not wait((future,), WAIT_SLICE_S).done:
            if cancel is not None and cancel.is_set():
                raise Cancelled("The request to the cluster was cancelled.")
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"The cluster has not answered for {timeout_s:g} s.")

    def _undo(self, undo: Callable[[T], Coroutine[Any, Any, object]], done: Future[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.send(undo(done.result()))

    def receive(self, source: AsyncIterator[T]) -> Incoming[T]:
        """Begin to read what another machine yields."""
        items: queue.SimpleQueue[T | _Over] = queue.SimpleQueue()
        return Incoming(self.send(_pull(source, items)), items)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="ollm-cluster-post", daemon=True
                ).start()
            return self._loop


class _Over:
    """Marks the end of what came; carries the error, if there was one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Incoming(Generic[T]):
    """What another machine yields, as it comes.

    Parameters
    ----------
    pulling
        Who puts it into `items`; ends when it is cancelled.
    items
        What has come and was not read yet.
    """

    def __init__(self, pulling: Future[None], items: queue.SimpleQueue[T | _Over]) -> None:
        self._pulling = pulling
        self._items = items

    def __iter__(self) -> Iterator[T | None]:
        """Yield each item, and None for each tenth of a second in which none has come."""
        while True:
            try:
                item = self._items.get(timeout=WAIT_SLICE_S)
            except queue.Empty:
                yield None
                continue
            if not isinstance(item, _Over):
                yield item
            elif item.error is None:
                return
            else:
                raise item.error

    def close(self) -> None:
        """Read no more; the other side ends too."""
        self._pulling.cancel()


async def _pull(source: AsyncIterator[T], items: queue.SimpleQueue[T | _Over]) -> None:
    try:
        async for item in source:
            items.put(item)
    except BaseException as error:  # the reader raises it, whatever it is
        items.put(_Over(error))
        if isinstance(error, asyncio.CancelledError):
            raise
    else:
        items.put(_Over(None))


async def quietly(work: Coroutine[Any, Any, object]) -> None:
    """Do some work whose failure nobody has to hear of."""
    with contextlib.suppress(Exception):
        await work
