from __future__ import annotations

import logging
import threading

import pytest

from ollm_widgets.session.lane import Lane

PATIENCE_S = 20.0


class ImpatientLane(Lane):
    """A lane whose thread ends as soon as it has nothing to do."""

    IDLE_S = 0.01


def finish(lane: Lane) -> None:
    """Wait until everything that was submitted has been done."""
    done = threading.Event()
    lane.submit(lambda _cancel: done.set())
    assert done.wait(PATIENCE_S)


def test_tasks_run_one_at_a_time_in_the_order_they_came() -> None:
    lane, order, running = Lane("test"), [], []

    def task(number: int) -> None:
        running.append(number)
        assert running == [number]
        order.append(number)
        running.remove(number)

    for number in range(50):
        lane.submit(lambda _cancel, number=number: task(number))
    finish(lane)
    assert order == list(range(50))


def test_each_job_has_an_id_of_its_own_that_names_its_lane() -> None:
    one, other = Lane("one"), Lane("other")
    ids = [lane.submit(lambda _cancel: None) for lane in (one, other, one)]
    assert len(set(ids)) == 3
    assert [job.split("-")[0] for job in ids] == ["one", "other", "one"]


def test_cancelling_reaches_what_runs_and_what_waits_but_not_what_comes_later() -> None:
    lane = Lane("test")
    started, seen = threading.Event(), []

    def running(cancel: threading.Event) -> None:
        started.set()
        seen.append(cancel.wait(PATIENCE_S))

    lane.submit(running)
    lane.submit(lambda cancel: seen.append(cancel.is_set()))
    assert started.wait(PATIENCE_S)
    lane.cancel()
    lane.submit(lambda cancel: seen.append(cancel.is_set()))
    finish(lane)
    assert seen == [True, True, False]


def test_cancelling_an_idle_lane_changes_nothing() -> None:
    lane, seen = Lane("test"), []
    lane.cancel()
    lane.submit(lambda cancel: seen.append(cancel.is_set()))
    finish(lane)
    assert seen == [False]


def test_a_task_that_fails_is_logged_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lane = Lane("test")
    with caplog.at_level(logging.ERROR):
        lane.submit(lambda _cancel: 1 // 0)
        finish(lane)
    (record,) = caplog.records
    assert "test lane" in record.message
    assert record.exc_info is not None


def test_the_thread_ends_when_idle_and_comes_back_with_the_next_task() -> None:
    lane, threads = ImpatientLane("test"), []
    for _round in range(3):
        done = threading.Event()

        def task(_cancel: threading.Event, done: threading.Event = done) -> None:
            threads.append(threading.current_thread())
            done.set()

        lane.submit(task)
        assert done.wait(PATIENCE_S)
        threads[-1].join(PATIENCE_S)
        assert not threads[-1].is_alive()
    assert len(set(threads)) == 3


def test_no_task_is_lost_while_the_thread_is_ending() -> None:
    lane = ImpatientLane("test")
    for _round in range(200):
        finish(lane)


def test_a_lane_that_was_never_used_has_no_thread() -> None:
    before = set(threading.enumerate())
    Lane("test")
    assert set(threading.enumerate()) <= before
