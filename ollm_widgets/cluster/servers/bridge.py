"""From blocking code on threads to an event loop, which must never wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Generic, TypeVar

from ollm_widgets.runtime.letting_go import let_go

T = TypeVar("T")


async def on_thread(call: Callable[[], T]) -> T:
    """Run `call` on a thread of its own; whoever leaves early leaves it to end by itself.

    Python's shared threads are few, and a call here may wait for minutes.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # nobody waits any more
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # T may be None

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # who waits gets it, whatever it is
            error = _sendable(raised)
        _post(loop, partial(settle, result, error))

    _start(run)
    return await future


class Pumped(Generic[T]):
    """What blocking work emits on a thread of its own, read by the event loop that began it.

    Parameters
    ----------
    work
        Gets what it calls with each item.
    """

    def __init__(self, work: Callable[[Callable[[T], None]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._lock = threading.Lock()
        self._come: list[T] = []
        self._error: BaseException | None = None
        self._work = work
        self._ended = asyncio.Event()
        self._ended.set()

    async def end(self) -> None:
        """Wait until the thread has ended, or for nothing where it has not begun."""
        await self._ended.wait()

    async def batches(self) -> AsyncIterator[list[T]]:
        """Begin, and yield what has come meanwhile, in order; at last raise the work's error."""
        _start(self._run)
        self._ended.clear()
        while True:
            self._news.clear()
            # Looked at before the items are taken: what comes last is not left behind.
            is_over = self._ended.is_set()
            with self._lock:
                come, self._come = self._come, []
            if come:
                yield come
            elif is_over:
                break
            else:
                await self._news.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work(self._emit)
        except BaseException as raised:  # the reader gets it, whatever it is
            error = _sendable(raised)
        _post(self._loop, partial(self._end, error))

    def _emit(self, item: T) -> None:
        with self._lock:
            is_first = not self._come
            self._come.append(item)
        if is_first:
            _post(self._loop, self._news.set)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        self._ended.set()
        self._news.set()


def _start(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="ollm-host", daemon=True).start()


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Run `call` on the loop, unless its process ends."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _sendable(error: BaseException) -> BaseException:
    """Free what an error holds; a coroutine cannot raise `StopIteration`."""
    let_go(error)
    if isinstance(error, StopIteration):
        return RuntimeError(f"StopIteration: {error}")
    return error
