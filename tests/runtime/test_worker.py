from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.runtime.worker import ModelWorker

Emit = Callable[[object], None]


@pytest.fixture
def worker() -> Iterator[ModelWorker]:
    worker = ModelWorker("test")
    yield worker
    worker.close()


def test_requests_run_one_after_another_in_the_order_they_came(worker: ModelWorker) -> None:
    order: list[int] = []
    jobs = [worker.submit(lambda _cancel, emit, n=n: (order.append(n), emit(n))) for n in range(20)]
    assert [list(job.items()) for job in jobs] == [[n] for n in range(20)]
    assert order == list(range(20))


def test_all_requests_run_on_one_thread(worker: ModelWorker) -> None:
    def work(_cancel: threading.Event, emit: Emit) -> None:
        emit(threading.get_ident())

    idents = {ident for _ in range(5) for ident in worker.submit(work).items()}
    assert len(idents) == 1
    assert threading.get_ident() not in idents


def test_an_error_reaches_the_caller_and_the_next_request_runs(worker: ModelWorker) -> None:
    def fail(_cancel: threading.Event, _emit: Emit) -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        list(worker.submit(fail).items())
    assert list(worker.submit(lambda _cancel, emit: emit("fine")).items()) == ["fine"]


def until_cancelled(cancel: threading.Event, emit: Emit) -> None:
    emit("started")
    assert cancel.wait(20)
    emit("stopped")


def test_a_callers_own_cancel_ends_the_request_and_its_last_items_arrive(
    worker: ModelWorker,
) -> None:
    cancel = threading.Event()
    items = worker.submit(until_cancelled).items(cancel)
    assert next(items) == "started"
    cancel.set()
    assert list(items) == ["stopped"]


def test_a_caller_who_leaves_early_cancels_its_request(worker: ModelWorker) -> None:
    job = worker.submit(until_cancelled)
    items = job.items()
    assert next(items) == "started"
    items.close()  # type: ignore[attr-defined]
    assert job.done.wait(20)


def test_closing_cancels_what_runs_and_refuses_what_waits(worker: ModelWorker) -> None:
    running, waiting = worker.submit(until_cancelled), worker.submit(until_cancelled)
    assert next(running.items()) == "started"
    assert worker.close()
    with pytest.raises(RuntimeClosedError, match="closed"):
        list(waiting.items())
    with pytest.raises(RuntimeClosedError, match="closed"):
        worker.submit(until_cancelled)


def test_a_worker_is_busy_while_a_request_runs_or_waits(worker: ModelWorker) -> None:
    assert not worker.busy
    job = worker.submit(until_cancelled)
    assert worker.busy
    job.cancel.set()
    worker.close()
    assert not worker.busy
