"""Tracing keeps captured steps: what is recorded, how often, and what it falls back to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ollm_widgets.errors import Cancelled
from ollm_widgets.weights import trace
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.steps.recorded import RecordedSteps
from ollm_widgets.weights.trace import PassTrace, Recorder
from tests.models.architectures import Architecture
from tests.weights.replaying import TracedRecordedSteps
from tests.weights.steps.test_capture import PROMPT, expected, greedy
from tests.weights.streamed_models import CPU, LAYERS, engine_of, named

FolderOf = Callable[[Architecture], Path]
LLAMA = named("llama")
NEW = 12


@pytest.fixture
def engine(folder_of: FolderOf) -> Iterator[WeightEngine]:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=("host",) * LAYERS) as engine:
        yield engine


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny steps be recorded as often as long ones."""
    monkeypatch.setattr(trace, "_MOMENT_S", 1e-12)


def recorder_of(engine: WeightEngine) -> Recorder | None:
    return engine._hooks.recorder


def steps_of(
    engine: WeightEngine, kind: type[TracedRecordedSteps] = TracedRecordedSteps
) -> TracedRecordedSteps:
    return kind(engine.model, CPU, recorder=lambda: recorder_of(engine))


@contextmanager
def traced(engine: WeightEngine) -> Iterator[list[PassTrace]]:
    passes: list[PassTrace] = []
    engine.start_trace()
    try:
        yield passes
    finally:
        passes += engine.stop_trace()


def steps_among(passes: list[PassTrace]) -> list[PassTrace]:
    return [each for each in passes if each.captured]


@pytest.mark.usefixtures("every_step")
def test_every_step_is_recorded_where_that_is_cheap_and_stays_captured(
    engine: WeightEngine,
) -> None:
    wanted = expected(engine.model, PROMPT, NEW)
    steps = steps_of(engine)
    with traced(engine) as passes:
        assert greedy(steps, PROMPT, NEW) == wanted
        assert steps.captured
    prompt, *rest = passes
    assert (prompt.tokens, prompt.position) == (PROMPT.shape[1], None)
    first = PROMPT.shape[1]
    assert [each.position for each in rest] == list(range(first, first + NEW - 1))
    assert not any(each.unrecorded or each.note for each in passes)
    for each in rest:
        assert each.tokens == 1
        assert [layer.layer for layer in each.layers] == list(range(LAYERS))
        parts = [
            (layer.disk_wait_s, layer.device_copy_s, layer.unpack_s, layer.compute_s)
            for layer in each.layers
        ]
        assert min(map(min, parts)) >= 0
        assert sum(map(sum, parts)) + each.head_s + each.ahead_wait_s <= each.total_s + 1e-9
        assert each.total_s > 0
    steps.close()


def test_of_short_steps_one_in_a_few_is_recorded_and_the_others_are_counted(
    engine: WeightEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "steps_between", lambda _moments, _step_s: 4)
    wanted = expected(engine.model, PROMPT, NEW)
    steps = steps_of(engine)
    with traced(engine) as passes:
        assert greedy(steps, PROMPT, NEW) == wanted
    first = PROMPT.shape[1]
    assert [each.position for each in passes] == [None, first, first + 4, first + 8]
    assert [each.unrecorded for each in passes] == [0, 3, 3, 2]
    steps.close()


@pytest.mark.usefixtures("every_step")
def test_a_step_is_not_recorded_over_one_that_still_runs(engine: WeightEngine) -> None:
    steps = steps_of(engine)
    with traced(engine) as passes:
        greedy(steps, PROMPT, 2)
        steps.running = True
        for _ in range(3):
            steps.step()
        steps.running = False
        steps.step()
    assert [each.unrecorded for each in passes] == [0, 3, 0]
    # What was recorded is what the second one's replay has not touched.
    assert len(steps_among(passes)) == 2
    steps.close()


@pytest.mark.usefixtures("every_step")
def test_without_a_trace_the_step_without_moments_runs(engine: WeightEngine) -> None:
    steps = steps_of(engine)
    greedy(steps, PROMPT, 4)
    assert set(steps.replays) == {False}
    with traced(engine):
        greedy(steps, PROMPT, 4)
    # A trace captures the step once more, and keeps what there was.
    assert steps.replays[-3:] == [True] * 3
    steps.replays.clear()
    greedy(steps, PROMPT, 4)
    assert steps.replays == [False] * 3
    steps.close()


def test_a_second_trace_captures_nothing(engine: WeightEngine) -> None:
    captures: list[bool] = []

    class Counting(TracedRecordedSteps):
        def _record(self, step: Any) -> Any:
            captures.append(self._moments is not None)
            return super()._record(step)

    steps = steps_of(engine, Counting)
    for _ in range(3):
        with traced(engine) as passes:
            greedy(steps, PROMPT, 4)
        assert steps_among(passes)
    assert captures == [False, True]
    # What changes addresses takes both graphs with it.
    steps.drop()
    with traced(engine) as passes:
        greedy(steps, PROMPT, 4)
    assert steps_among(passes)
    assert captures == [False, True] * 2
    steps.close()


def test_passes_of_a_capture_are_none_of_the_request(engine: WeightEngine) -> None:
    steps = steps_of(engine)
    with traced(engine) as passes:
        steps.begin(1, 100)
        assert steps.captured
    assert passes == []
    with traced(engine) as passes:
        greedy(steps, PROMPT, 1)
    assert [each.tokens for each in passes] == [PROMPT.shape[1]]
    steps.close()


def test_where_moments_cannot_be_captured_traced_steps_run_layer_by_layer_and_say_why(
    engine: WeightEngine,
) -> None:
    class Refusing(TracedRecordedSteps):
        def _record(self, step: Any) -> Any:
            if self._moments is not None:
                raise RuntimeError("no such node\nand more")
            return super()._record(step)

    wanted = expected(engine.model, PROMPT, NEW)
    steps = steps_of(engine, Refusing)
    with traced(engine) as passes:
        assert greedy(steps, PROMPT, NEW) == wanted
    assert [each.tokens for each in passes] == [PROMPT.shape[1]] + [1] * (NEW - 1)
    assert not steps_among(passes)
    assert [each.note for each in passes] == [""] + ["RuntimeError: no such node"] * (NEW - 1)
    # Without a trace steps are captured as before, in the midst of a request too.
    assert steps.captured
    assert steps.refusal is None
    steps.replays.clear()
    assert greedy(steps, PROMPT, NEW) == wanted
    assert steps.replays == [False] * (NEW - 1)
    steps.close()


def test_a_trace_that_begins_and_ends_within_a_request_changes_no_token(
    engine: WeightEngine,
) -> None:
    class Refusing(TracedRecordedSteps):
        def _record(self, step: Any) -> Any:
            if self._moments is not None:
                raise RuntimeError("no such node")
            return super()._record(step)

    wanted = expected(engine.model, PROMPT, NEW)
    for kind in (TracedRecordedSteps, Refusing):
        steps = steps_of(engine, kind)
        steps.begin(1, PROMPT.shape[1] + NEW)
        steps.prefill(PROMPT, torch.ones_like(PROMPT))
        tokens = [steps.chosen.flatten().tolist()]
        for number in range(1, NEW):
            if number == 4:
                engine.start_trace()
            if number == 8:
                assert engine.stop_trace()
            steps.step()
            tokens.append(steps.chosen.flatten().tolist())
        assert tokens == wanted
        steps.close()


def test_a_full_memory_costs_the_moments_of_this_cache_and_not_the_request(
    engine: WeightEngine,
) -> None:
    class Full(TracedRecordedSteps):
        full = True

        def _record(self, step: Any) -> Any:
            if self._moments is not None and self.full:
                raise torch.OutOfMemoryError("full")
            return super()._record(step)

    wanted = expected(engine.model, PROMPT, NEW)
    steps = steps_of(engine, Full)
    with traced(engine) as passes:
        assert greedy(steps, PROMPT, NEW) == wanted
    assert passes[-1].note == "there is no memory for a second graph"
    assert steps.captured
    steps.full = False
    steps.drop()
    with traced(engine) as passes:
        assert greedy(steps, PROMPT, NEW) == wanted
    assert steps_among(passes)
    steps.close()


def test_a_cancel_during_the_capture_of_moments_is_no_refusal(engine: WeightEngine) -> None:
    class Stopped(TracedRecordedSteps):
        stopped = False

        def _record(self, step: Any) -> Any:
            if self._moments is not None and not self.stopped:
                self.stopped = True
                raise Cancelled("in the middle")
            return super()._record(step)

    wanted = expected(engine.model, PROMPT, NEW)
    steps = steps_of(engine, Stopped)
    with traced(engine) as passes:
        with pytest.raises(Cancelled):
            greedy(steps, PROMPT, NEW)
        assert greedy(steps, PROMPT, NEW) == wanted
    assert steps_among(passes)
    steps.close()


def test_torch_that_has_no_events_inside_graphs_is_told_by_its_version(
    engine: WeightEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BeforeExternal:
        def __init__(self, enable_timing: bool = False) -> None:
            raise AssertionError("such an event is not wanted")

    assert "external" in inspect.signature(torch.cuda.Event.__new__).parameters
    monkeypatch.setattr(torch.cuda, "Event", BeforeExternal)
    steps = steps_of(engine)
    with traced(engine) as passes:
        greedy(steps, PROMPT, 3)
    assert passes[-1].note == f"torch {torch.__version__} has no events inside graphs"
    steps.close()


def test_without_cuda_traced_steps_are_eager_as_others_are(engine: WeightEngine) -> None:
    steps = RecordedSteps(engine.model, CPU, recorder=lambda: recorder_of(engine))
    with traced(engine) as passes:
        assert greedy(steps, PROMPT, NEW) == expected(engine.model, PROMPT, NEW)
    assert steps.refusal == "captured steps need a CUDA device"
    assert {each.note for each in passes} == {""}
    steps.close()
