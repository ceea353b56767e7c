from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import LoadProgress, OllmError
from ollm_widgets.session import loading as module
from ollm_widgets.session.loading import Loading


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_stage_knows_its_mean_rate_and_the_time_left(clock: Clock) -> None:
    loading = Loading()
    loading.begin("tiny")
    loading.report(LoadProgress("Read weights", 0, 1_000))
    clock.now += 2
    loading.report(LoadProgress("Read weights", 200, 1_000))
    (stage,) = loading.stages
    assert stage.bytes_per_s == 100
    assert stage.seconds_left == 8
    assert not stage.finished


def test_before_the_first_byte_there_is_no_rate_and_no_time_left(clock: Clock) -> None:
    loading = Loading()
    loading.begin("tiny")
    loading.report(LoadProgress("Read weights", 0, 1_000))
    assert loading.stages[0].bytes_per_s == 0
    assert loading.stages[0].seconds_left is None
    clock.now += 1
    loading.report(LoadProgress("Read weights", 0, 1_000))
    assert loading.stages[0].seconds_left is None


def test_a_stage_of_unknown_size_has_a_rate_but_no_end(clock: Clock) -> None:
    loading = Loading()
    loading.begin("tiny")
    loading.report(LoadProgress("Warm up", 0, 0))
    clock.now += 1
    loading.report(LoadProgress("Warm up", 50, 0))
    assert loading.stages[0].bytes_per_s == 50
    assert loading.stages[0].seconds_left is None
    assert not loading.stages[0].finished


def test_a_new_stage_ends_those_before_it(clock: Clock) -> None:
    loading = Loading()
    loading.begin("tiny")
    for name in ("Prepare files", "Read weights", "Warm up"):
        loading.report(LoadProgress(name, 0, 10))
    assert [(stage.name, stage.finished) for stage in loading.stages] == [
        ("Prepare files", True),
        ("Read weights", True),
        ("Warm up", False),
    ]


def test_a_load_that_succeeds_finishes_its_stages_and_keeps_its_seconds(clock: Clock) -> None:
    loading = Loading()
    loading.begin("tiny")
    loading.report(LoadProgress("Warm up", 0, 0))
    clock.now += 3
    loading.end("loaded")
    assert loading.seconds == 3
    assert loading.stages[0].finished
    assert not loading.active


def test_a_load_that_fails_leaves_its_stage_unfinished(clock: Clock) -> None:
    loading = Loading()
    loading.begin("tiny")
    loading.report(LoadProgress("Read weights", 1, 2))
    loading.end("failed", OllmError("no"))
    assert str(loading.error) == "no"
    assert not loading.stages[0].finished


def test_beginning_anew_forgets_the_last_load(clock: Clock) -> None:
    loading = Loading()
    loading.begin("tiny")
    loading.report(LoadProgress("Read weights", 1, 2))
    loading.end("failed", OllmError("no"))
    loading.begin("other")
    assert (loading.state, loading.model, loading.error) == ("loading", "other", None)
    assert not loading.stages
    assert loading.active


def test_the_wait_for_room_is_told_apart_from_the_load(clock: Clock) -> None:
    loading = Loading()
    loading.begin("tiny")
    clock.now += 1
    loading.report(LoadProgress("Wait for room", 0, 0))
    clock.now += 40
    assert loading.waited_s == 0
    loading.report(LoadProgress("Read weights", 0, 10))
    clock.now += 3
    loading.end("loaded")
    assert (loading.waited_s, loading.seconds) == (41, 44)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=30
    )
)
def test_any_reports_keep_one_record_a_stage_in_the_order_they_came(
    reports: list[tuple[str, int, int]],
) -> None:
    loading = Loading()
    loading.begin("tiny")
    for name, done, total in reports:
        loading.report(LoadProgress(name, done, total))
    assert [stage.name for stage in loading.stages] == list(dict.fromkeys(r[0] for r in reports))
    for stage in loading.stages:
        latest = next(report for report in reversed(reports) if report[0] == stage.name)
        assert (stage.done_bytes, stage.total_bytes) == latest[1:]
        assert stage.bytes_per_s >= 0
