"""Whoever waits for the cluster sees a cancel at once, and nothing is left half done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from ollm_widgets.cluster.client.post import Post
from ollm_widgets.errors import Cancelled

PATIENCE_S = 20.0


@pytest.fixture
def post() -> Post:
    return Post()


async def answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


def test_an_answer_comes_and_an_error_too(post: Post) -> None:
    async def fail() -> None:
        raise TimeoutError("of the work itself")

    assert post.ask(answer(3)) == 3
    with pytest.raises(TimeoutError, match="of the work itself"):
        post.ask(fail())


def test_a_cancel_ends_the_wait_and_the_work(post: Post) -> None:
    ended, cancel, waiting = threading.Event(), threading.Event(), threading.Event()

    async def wait() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    threading.Thread(target=lambda: (waiting.wait(PATIENCE_S), cancel.set())).start()
    with pytest.raises(Cancelled):
        post.ask(wait(), cancel)
    assert ended.wait(PATIENCE_S)


def test_a_wait_that_is_too_long_ends(post: Post) -> None:
    with pytest.raises(TimeoutError, match=r"has not answered for 0\.1 s"):
        post.ask(asyncio.sleep(PATIENCE_S), timeout_s=0.1)


def test_what_nobody_took_is_undone_when_it_comes_after_all(post: Post) -> None:
    goes_on, cancel, waiting = threading.Event(), threading.Event(), threading.Event()
    undone: list[int] = []
    was_undone = threading.Event()

    async def reserve() -> int:
        waiting.set()
        while not goes_on.is_set():
            await asyncio.sleep(0.01)
        return 7

    async def release(number: int) -> None:
        undone.append(number)
        was_undone.set()

    threading.Thread(target=lambda: (waiting.wait(PATIENCE_S), cancel.set())).start()
    with pytest.raises(Cancelled):
        post.ask(reserve(), cancel, undo=release)
    assert undone == []
    goes_on.set()
    assert was_undone.wait(PATIENCE_S)
    assert undone == [7]


def test_what_was_taken_is_not_undone(post: Post) -> None:
    undone: list[int] = []

    async def release(number: int) -> None:
        undone.append(number)

    assert post.ask(answer(1), undo=release) == 1
    assert post.ask(answer(2)) == 2
    assert undone == []


def test_items_come_in_their_order_and_then_the_end(post: Post) -> None:
    async def count() -> AsyncIterator[int]:
        for number in range(100):
            yield number

    assert [item for item in post.receive(count()) if item is not None] == list(range(100))


def test_an_error_comes_after_the_items_before_it(post: Post) -> None:
    async def count() -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    items = (item for item in post.receive(count()) if item is not None)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_leaving_closes_the_other_side(post: Post) -> None:
    closed = threading.Event()

    async def count() -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    incoming = post.receive(count())
    for item in incoming:
        if item is not None:
            break
    incoming.close()
    assert closed.wait(PATIENCE_S)


def test_who_waits_is_asked_again_while_nothing_comes(post: Post) -> None:
    async def nothing() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 0

    incoming = post.receive(nothing())
    seen = iter(incoming)
    assert [next(seen), next(seen)] == [None, None]
    incoming.close()
