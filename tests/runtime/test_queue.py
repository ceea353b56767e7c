"""Jobs of several callers on one worker."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets import Cancelled, RuntimeClosedError
from ollm_widgets.runtime.job import Job
from ollm_widgets.runtime.worker import ITSELF, ModelWorker

PATIENCE_S = 30.0
Emit = Callable[[object], None]


@pytest.fixture
def worker() -> Iterator[ModelWorker]:
    worker = ModelWorker("test")
    yield worker
    worker.close()


class Gate:
    """Work that holds the worker until it is opened, or cancelled."""

    def __init__(self, worker: ModelWorker, caller: str = "gate") -> None:
        self.opened, self._entered = threading.Event(), threading.Event()
        self.cancelled = False
        self.job: Job[object] = worker.submit(self._work, caller)
        assert self._entered.wait(PATIENCE_S)

    def _work(self, cancel: threading.Event, emit: Emit) -> None:
        self._entered.set()
        while not self.opened.wait(0.005):
            if cancel.is_set():
                self.cancelled = True
                return
        emit("through")


def test_a_chat_waits_for_one_answer_of_a_loop_with_a_hundred(worker: ModelWorker) -> None:
    gate, ran = Gate(worker, "loop"), []
    loop = [
        worker.submit(lambda _c, _e, n=n: ran.append(f"loop {n}"), "loop")  # type: ignore[misc]
        for n in range(100)
    ]
    chat = worker.submit(lambda _c, _e: ran.append("chat"), "chat")
    gate.opened.set()
    list(chat.items())
    assert "loop 1" not in ran[: ran.index("chat")]
    for job in loop:
        list(job.items())
    assert ran == ["chat", *(f"loop {n}" for n in range(100))]


def test_each_thread_is_a_caller_of_its_own_even_under_one_name(worker: ModelWorker) -> None:
    gate, ran, jobs = Gate(worker), [], []
    submitted = threading.Barrier(2)

    def submit(mark: str) -> None:
        for n in range(3):
            jobs.append(worker.submit(lambda _c, _e, n=n: ran.append(f"{mark}{n}")))  # type: ignore[misc]
        submitted.wait(PATIENCE_S)  # so that both are alive together

    threads = [threading.Thread(target=submit, args=(mark,), name="same") for mark in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.caller for each in worker.queue[1:]] == ["same"] * 6
    gate.opened.set()
    for job in jobs:
        list(job.items())
    assert [each[1] for each in ran] == ["0", "0", "1", "1", "2", "2"]


def test_what_the_runtime_does_of_its_own_accord_has_its_turn(worker: ModelWorker) -> None:
    gate, ran = Gate(worker), []
    for n in range(5):
        worker.submit(lambda _c, _e, n=n: ran.append(f"a{n}"), "a")  # type: ignore[misc]
        worker.submit(lambda _c, _e, n=n: ran.append(f"b{n}"), "b")  # type: ignore[misc]
    own = worker.submit(lambda _c, _e: ran.append("own"), ITSELF)
    gate.opened.set()
    list(own.items())
    assert ran[:3] == ["a0", "b0", "own"]


def test_a_cancelled_request_ends_while_another_still_runs(worker: ModelWorker) -> None:
    gate, cancel = Gate(worker), threading.Event()
    ran: list[str] = []
    job = worker.submit(lambda _c, _e: ran.append("ran"), "b", lambda: "as it was")
    cancel.set()
    assert list(job.items(cancel)) == ["as it was"]
    assert not gate.job.done.is_set()
    assert [each.caller for each in worker.queue] == ["gate"]
    gate.opened.set()
    list(gate.job.items())
    assert ran == []


def test_a_request_that_promises_nothing_ends_with_cancelled(worker: ModelWorker) -> None:
    gate, cancel = Gate(worker), threading.Event()
    job = worker.submit(lambda _c, _e: None, "b")
    cancel.set()
    with pytest.raises(Cancelled, match="before its turn"):
        list(job.items(cancel))
    gate.opened.set()


def test_a_cancel_that_nobody_waits_for_is_seen_when_the_turn_comes(worker: ModelWorker) -> None:
    gate, cancel, ran = Gate(worker), threading.Event(), []
    items = worker.submit(lambda _c, _e: ran.append(1), "b", lambda: "skipped").items(cancel)
    cancel.set()
    gate.opened.set()
    list(worker.submit(lambda _c, _e: None, "c").items())
    assert list(items) == ["skipped"]
    assert ran == []


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_an_iterator_that_is_left_before_its_first_item_leaves_the_queue(
    worker: ModelWorker, leave: str
) -> None:
    gate, ran = Gate(worker), []
    items = worker.submit(lambda _c, _e: ran.append(1), "b").items()
    assert len(worker.queue) == 2
    if leave == "close":
        items.close()
        assert list(items) == []
    del items
    assert [each.caller for each in worker.queue] == ["gate"]
    gate.opened.set()
    list(gate.job.items())
    list(worker.submit(lambda _c, _e: None).items())
    assert ran == []


def test_positions_are_seen_and_told_as_they_change(worker: ModelWorker) -> None:
    gates = [Gate(worker, "one")]
    second = worker.submit(lambda _c, _e: None, "two")
    told: list[int] = []
    moved = threading.Event()

    def on_wait(position: int) -> None:
        told.append(position)
        moved.set()

    third = worker.submit(lambda _c, emit: emit("mine"), "three")
    shown = [(each.caller, each.position, each.running) for each in worker.queue]
    assert shown == [("one", 0, True), ("two", 1, False), ("three", 2, False)]
    assert all(each.waited_s >= 0 for each in worker.queue)
    items: list[object] = []
    reader = threading.Thread(target=lambda: items.extend(third.items(on_wait=on_wait)))
    reader.start()
    assert moved.wait(PATIENCE_S)
    moved.clear()
    second.items().close()
    assert moved.wait(PATIENCE_S)
    gates[0].opened.set()
    reader.join(PATIENCE_S)
    assert told == [2, 1, 0]
    assert items == ["mine"]


def test_what_is_told_of_activity_begins_with_the_first_and_ends_with_the_last(
    worker: ModelWorker,
) -> None:
    told: list[bool] = []
    quiet = threading.Event()

    def watcher(active: bool) -> None:
        told.append(active)
        if not active:
            quiet.set()

    unwatch = worker.watch(watcher)
    gate = Gate(worker)
    others = [worker.submit(lambda _c, _e: None, name) for name in "ab"]
    gate.opened.set()
    for job in others:
        list(job.items())
    assert quiet.wait(PATIENCE_S)
    assert told == [True, False]
    unwatch()
    unwatch()
    list(worker.submit(lambda _c, _e: None).items())
    worker.close()
    assert told == [True, False]


def test_activity_is_told_in_order_whoever_causes_it(worker: ModelWorker) -> None:
    told: list[bool] = []
    worker.watch(told.append)

    def ask() -> None:
        for _ in range(200):
            list(worker.submit(lambda _c, _e: None).items())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.close()
    assert told
    assert told == [True, False] * (len(told) // 2)


def test_a_watcher_that_fails_stops_neither_the_worker_nor_the_others(
    worker: ModelWorker, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[bool] = []

    def broken(_active: bool) -> None:
        raise LookupError("broken watcher")

    worker.watch(broken)
    worker.watch(told.append)
    assert list(worker.submit(lambda _c, emit: emit(1)).items()) == [1]
    assert list(worker.submit(lambda _c, emit: emit(2)).items()) == [2]
    worker.close()
    assert told == [True, False] * (len(told) // 2)
    assert "broken watcher" in caplog.text


def test_who_has_seen_the_end_finds_the_worker_idle(worker: ModelWorker) -> None:
    for _ in range(300):
        list(worker.submit(lambda _c, _e: None).items())
        assert not worker.busy


def test_only_the_request_that_runs_is_cancelled(worker: ModelWorker) -> None:
    assert not worker.cancel_running()
    gate = Gate(worker)
    waiting = worker.submit(lambda _c, emit: emit("ran"), "b")
    assert worker.cancel_running()
    assert list(waiting.items()) == ["ran"]
    assert gate.cancelled


def test_a_worker_is_shut_only_while_nothing_runs_or_waits(worker: ModelWorker) -> None:
    gate = Gate(worker)
    assert not worker.shut_if_idle()
    gate.opened.set()
    list(gate.job.items())
    assert worker.shut_if_idle()
    with pytest.raises(RuntimeClosedError):
        worker.submit(lambda _c, _e: None)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_many_threads_that_come_and_leave_lose_nothing(seed: int) -> None:
    worker = ModelWorker("many")
    ran: list[tuple[int, int]] = []  # only the worker's thread writes it
    kept: set[tuple[int, int]] = set()
    lock = threading.Lock()

    def ask(number: int) -> None:
        choose = random.Random(seed * 100 + number)
        for n in range(30):
            mark = (number, n)
            job = worker.submit(lambda _c, emit, mark=mark: (ran.append(mark), emit(mark)))  # type: ignore[misc]
            chance = choose.random()
            if chance < 0.2:
                job.items().close()
            elif chance < 0.4:
                job.stop()
            else:
                assert list(job.items()) == [mark]
                with lock:
                    kept.add(mark)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    list(worker.submit(lambda _c, _e: None).items())
    assert not worker.busy
    assert worker.close()
    assert len(ran) == len(set(ran))
    assert kept <= set(ran)
