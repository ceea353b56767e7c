"""Requests under way are counted, and each is told of its own turn."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ollm_widgets.cluster.far.outbox import Outbox, RemoteJob
from ollm_widgets.errors import Cancelled, RuntimeClosedError

PATIENCE_S = 20.0


def until_stopped(job: RemoteJob[int]) -> Any:
    def run(stop: threading.Event, emit: Callable[[int], None]) -> None:
        emit(0)
        stop.wait(PATIENCE_S)
        emit(1)

    return run


def test_a_request_runs_at_once_and_others_beside_it() -> None:
    outbox = Outbox("model")
    together = threading.Barrier(3, timeout=PATIENCE_S)

    def work(_job: RemoteJob[int]) -> Any:
        return lambda _stop, emit: emit(together.wait())

    jobs = [outbox.submit(work, name) for name in ("a", "b")]
    together.wait()
    got = [next(job.items()) for job in jobs]
    assert len(got) == 2
    assert outbox.close()
    assert not outbox.busy


def test_it_is_busy_from_the_first_request_to_the_end_of_the_last() -> None:
    outbox = Outbox("model")
    changes: list[bool] = []
    unwatch = outbox.watch(changes.append)
    first, second = (outbox.submit(until_stopped, name) for name in ("a", "b"))
    assert outbox.busy
    assert [waiting.caller for waiting in outbox.queue] == ["a", "b"]
    first.stop()
    assert list(first.items()) == [0, 1]
    assert outbox.busy
    second.stop()
    assert list(second.items()) == [0, 1]
    assert outbox.close()
    assert changes == [True, False]
    unwatch()


def test_a_request_says_how_many_come_before_it_until_its_turn() -> None:
    outbox = Outbox("model")
    turns = threading.Event()

    def work(job: RemoteJob[int]) -> Any:
        def run(_stop: threading.Event, emit: Callable[[int], None]) -> None:
            job.waits(2)
            emit(0)
            turns.wait(PATIENCE_S)
            job.waits(0)
            emit(1)

        return run

    told: list[int] = []
    items = outbox.submit(work, "a").items(on_wait=told.append)
    assert next(items) == 0
    (waiting,) = outbox.queue
    assert (waiting.running, waiting.position) == (False, 2)
    turns.set()
    assert list(items) == [1]
    assert told == [2, 0]


def test_who_drops_the_items_cancels_the_request() -> None:
    outbox = Outbox("model")
    items = outbox.submit(until_stopped, "a").items()
    assert next(items) == 0
    del items
    gc.collect()
    assert outbox.close()


def test_the_error_of_a_request_reaches_who_reads_it() -> None:
    outbox = Outbox("model")

    def work(_job: RemoteJob[int]) -> Any:
        def run(_stop: threading.Event, _emit: Callable[[int], None]) -> None:
            raise ValueError("no answer")

        return run

    with pytest.raises(ValueError, match="no answer"):
        list(outbox.submit(work, "a").items())
    assert outbox.close()


def test_a_closed_one_cancels_what_runs_and_refuses_what_comes() -> None:
    outbox = Outbox("model")
    job = outbox.submit(until_stopped, "a")
    assert not outbox.shut_if_idle()
    assert outbox.close()
    assert list(job.items()) == [0, 1]
    with pytest.raises(RuntimeClosedError):
        outbox.submit(until_stopped, "a")


def test_a_request_that_finds_no_place_before_its_cancel_ends_with_it() -> None:
    outbox = Outbox("model")
    cancel = threading.Event()
    cancel.set()

    def waits_for_a_place(_job: RemoteJob[int]) -> Any:
        def run(stop: threading.Event, _emit: Callable[[int], None]) -> None:
            stop.wait(PATIENCE_S)
            raise Cancelled("It was cancelled.")

        return run

    with pytest.raises(Cancelled):
        list(outbox.submit(waits_for_a_place, "a").items(cancel))
    assert outbox.close()
