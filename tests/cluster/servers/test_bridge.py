"""Blocking work on threads, read by an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ollm_widgets.cluster.servers.bridge import Pumped, on_thread
from ollm_widgets.cluster.servers.under_way import UnderWay


def test_everything_that_is_emitted_comes_once_and_in_order() -> None:
    def work(emit: Callable[[int], None]) -> None:
        for number in range(10_000):
            emit(number)

    async def read() -> list[int]:
        return [number async for batch in Pumped(work).batches() for number in batch]

    assert asyncio.run(read()) == list(range(10_000))


def test_an_error_comes_after_what_was_emitted_before_it() -> None:
    def work(emit: Callable[[int], None]) -> None:
        emit(1)
        raise KeyError("no more")

    async def read() -> list[int]:
        batches = Pumped(work).batches()
        come = await anext(batches)
        with pytest.raises(KeyError, match="no more"):
            await anext(batches)
        return come

    assert asyncio.run(read()) == [1]


def test_the_end_of_a_pump_is_the_end_of_its_thread() -> None:
    go_on, ended = threading.Event(), threading.Event()

    def work(emit: Callable[[int], None]) -> None:
        emit(1)
        go_on.wait()
        ended.set()

    async def leave() -> None:
        pumped = Pumped(work)
        await pumped.end()  # it has not begun
        async for _batch in pumped.batches():
            break
        waiting = asyncio.create_task(pumped.end())
        await asyncio.sleep(0)
        assert not waiting.done()
        go_on.set()
        await waiting
        assert ended.is_set()

    asyncio.run(leave())


def test_a_call_on_a_thread_gives_its_value_or_its_error() -> None:
    def fail() -> None:
        raise StopIteration("not for a coroutine")

    async def both() -> str:
        with pytest.raises(RuntimeError, match="not for a coroutine"):
            await on_thread(fail)
        return await on_thread(lambda: threading.current_thread().name)

    assert asyncio.run(both()) != threading.main_thread().name


def test_many_calls_wait_at_the_same_time() -> None:
    together = threading.Barrier(100)

    async def meet() -> list[Any]:
        return await asyncio.gather(*(on_thread(lambda: together.wait(10)) for _ in range(100)))

    assert sorted(asyncio.run(meet())) == list(range(100))


def test_works_end_by_their_reservation_or_with_their_client() -> None:
    works = UnderWay()
    with (
        works.work("answer", "r1", "alice") as first,
        works.work("answer", "r2", "alice") as second,
        works.work("load", "r3", "bob") as third,
    ):
        assert works.stop("r1")
        assert (first.cancel.is_set(), second.cancel.is_set()) == (True, False)
        assert not works.stop("r9")
        assert works.abandon("alice") == 2
        assert second.cancel.is_set()
        assert not third.cancel.is_set()
    assert third.cancel.is_set()
    assert works.abandon("alice") == 0


def test_a_call_that_is_sent_again_takes_the_place_of_the_first() -> None:
    works = UnderWay()
    with (
        works.work("answer", "r1", "alice") as first,
        works.work("load", "r1", "alice") as load,
        works.work("answer", "r1", "alice") as again,
    ):
        assert first.cancel.is_set()
        assert not load.cancel.is_set()
        assert not again.cancel.is_set()
