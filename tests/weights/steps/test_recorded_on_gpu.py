"""Moments inside captured steps on a CUDA device; skipped where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ollm_widgets import GenerationConfig
from ollm_widgets.kv.attention.launching import kernels
from ollm_widgets.kv.attention.paged_cache import PagedCache
from ollm_widgets.weights import trace
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.steps import recorded
from ollm_widgets.weights.steps.recorded import RecordedSteps
from ollm_widgets.weights.trace import PassTrace, Recorder
from tests.kv.attention import test_paging_on_gpu as paging
from tests.models.architectures import Architecture
from tests.weights.on_gpu import GPU, PLACEMENTS, RING, held_bytes, on_gpu
from tests.weights.steps.test_capture_on_gpu import decode, llama, prompts
from tests.weights.steps.test_recorded import recorder_of, traced
from tests.weights.streamed_models import ALONE, LAYERS, engine_of, named

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FolderOf = Callable[[Architecture], Path]
ASKED = GenerationConfig(max_new_tokens=24)
CAPTURABLE = {name: tiers for name, tiers in PLACEMENTS.items() if "disk" not in tiers}
# Rounding of differences between single-precision milliseconds.
NOISE_S = 1e-7


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny steps be recorded as often as long ones."""
    monkeypatch.setattr(trace, "_MOMENT_S", 1e-12)


@contextmanager
def stepping(engine: WeightEngine) -> Iterator[RecordedSteps]:
    steps = RecordedSteps(
        engine.model,
        GPU,
        recorder=lambda: recorder_of(engine),
        before_step=engine.fork,
        after_step=engine.join,
        settle=engine.settle,
        forget=engine.forget,
        fuse=True,
    )
    try:
        yield steps
    finally:
        steps.close()


def answer(
    steps: RecordedSteps, asked: GenerationConfig = ASKED, *, read_behind: bool = True
) -> torch.Tensor:
    prompt = on_gpu(ALONE)
    return decode(steps, prompt.input_ids, prompt.attention_mask, asked, read_behind=read_behind)


def parts_of(each: PassTrace) -> list[tuple[float, ...]]:
    return [
        (layer.disk_wait_s, layer.device_copy_s, layer.unpack_s, layer.compute_s)
        for layer in each.layers
    ]


@pytest.mark.usefixtures("packed_however_small", "every_step")
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "packed"])
@pytest.mark.parametrize("placement", CAPTURABLE)
def test_traced_steps_stay_captured_and_their_times_are_parts_of_the_whole(
    placement: str, packed: bool, folder_of: FolderOf
) -> None:
    tiers = CAPTURABLE[placement]
    streaming = replace(RING, packed=packed)
    folder = folder_of(named("llama"))
    with (
        engine_of(
            named("llama"),
            folder,
            dtype=torch.bfloat16,
            tiers=tiers,
            streaming=streaming,
            device=GPU,
        ) as engine,
        stepping(engine) as steps,
    ):
        wanted = answer(steps)
        assert steps.refusal is None
        for read_behind in (True, False):
            with traced(engine) as passes:
                assert torch.equal(answer(steps, read_behind=read_behind), wanted)
                assert steps.captured
            assert steps.trace_refusal is None
            steps_seen = [each for each in passes if each.captured]
            launched = len(steps_seen) + sum(each.unrecorded for each in passes)
            assert launched >= ASKED.max_new_tokens - 1
            # A step is read when the next one is launched, or where that is ahead, one later.
            assert len(steps_seen) >= (launched if not read_behind else launched // 4)
            for each in steps_seen:
                assert tuple(layer.tier for layer in each.layers) == tiers
                assert [layer.layer for layer in each.layers] == list(range(LAYERS))
                parts = parts_of(each)
                assert all(math.isfinite(part) and part >= 0 for row in parts for part in row)
                spent = sum(map(sum, parts)) + each.head_s + each.ahead_wait_s
                assert spent <= each.total_s + NOISE_S
                assert all(layer.compute_s > 0 for layer in each.layers)
                assert each.head_s > 0
                for layer in each.layers:
                    if layer.tier == "accelerator":
                        assert layer.device_copy_s == layer.unpack_s == 0
                    elif packed and engine.packed_layers == tiers.count("host"):
                        assert layer.unpack_s > 0
        # Nothing of the trace is left in what runs without one.
        assert torch.equal(answer(steps), wanted)


def busy(seconds: float) -> None:
    """Keep the current stream busy for about so long."""
    torch.cuda._sleep(int(seconds * 1e9))


@pytest.mark.usefixtures("every_step")
def test_waiting_is_the_layers_that_waits_and_computing_the_one_that_computes() -> None:
    model = llama()
    recorder = Recorder(GPU)
    copies = torch.cuda.Stream()
    waited, slow, ahead = 1, 2, 3
    arrived: list[torch.cuda.Event] = []

    def fork() -> None:
        copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(copies):
            busy(0.02)
            event = torch.cuda.Event()
            event.record(copies)
            busy(0.1)
        arrived[:] = [event]

    def join() -> None:
        torch.cuda.current_stream().wait_stream(copies)

    def before(index: int) -> Callable[..., None]:
        def note(*_args: Any) -> None:
            recorder.begin(index, "host", 1, first=index == 0)
            if index == waited:
                torch.cuda.current_stream().wait_event(arrived[0])
                recorder.copied()
            recorder.ready()

        return note

    def after(index: int) -> Callable[..., None]:
        def note(*_args: Any) -> None:
            if index == slow:
                busy(0.02)
            recorder.end()

        return note

    runner = RecordedSteps(model, GPU, recorder=lambda: recorder, before_step=fork, after_step=join)
    with torch.inference_mode():
        runner.begin(1, 60)
        ids, mask = prompts((12,), 1000)
        runner.prefill(ids, mask)
        assert runner.captured
        for index, layer in enumerate(model.model.layers):
            layer.register_forward_pre_hook(before(index))
            layer.register_forward_hook(after(index))
        for _ in range(4):
            runner.step()
            runner.chosen.tolist()
    steps = [each for each in recorder.traces() if each.captured]
    assert len(steps) == 4
    for each in steps:
        waits = [part for row in parts_of(each) for part in row[:3]]
        assert each.layers[waited].device_copy_s == max(waits)
        others = [layer for layer in each.layers if layer.layer not in (waited, slow)]
        quick_s = sum(layer.device_copy_s + layer.compute_s for layer in others)
        assert each.layers[waited].device_copy_s > quick_s
        assert each.layers[slow].compute_s > quick_s
        # The copies go on when all is computed, and the next step waits for them.
        assert each.ahead_wait_s > each.layers[slow].compute_s
        assert each.layers[ahead].device_copy_s == 0
    runner.close()


@pytest.mark.usefixtures("every_step")
def test_a_trace_takes_no_memory_for_a_token_and_gives_all_back(folder_of: FolderOf) -> None:
    folder = folder_of(named("llama"))

    def use() -> int:
        with (
            engine_of(
                named("llama"), folder, tiers=("accelerator",) * LAYERS, device=GPU
            ) as engine,
            stepping(engine) as steps,
            traced(engine),
        ):
            answer(steps)
            taken = torch.cuda.memory_stats()["segment.all.allocated"]
            answer(steps)
            assert torch.cuda.memory_stats()["segment.all.allocated"] == taken
        return held_bytes()

    # cuBLAS has kept a workspace for the stream of the capture, once.
    first = use()
    assert use() == first


class _FailsAgain:
    """A hook that raises in a capture, but not in the first one."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            self.captures += 1
            if self.captures == 2:
                raise RuntimeError("not twice")
        return output


class _InvalidatesAgain(_FailsAgain):
    """A hook that has CUDA itself give the second capture up."""

    def __call__(self, _module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        if torch.cuda.is_current_stream_capturing():
            self.captures += 1
            if self.captures == 2:
                torch.cuda.current_stream().synchronize()
        return output


@pytest.mark.parametrize("hook", [_FailsAgain, _InvalidatesAgain])
def test_a_capture_that_fails_beside_another_leaves_steps_as_they_were(
    hook: type[_FailsAgain], folder_of: FolderOf
) -> None:
    with (
        engine_of(
            named("llama"), folder_of(named("llama")), tiers=("host",) * LAYERS, device=GPU
        ) as engine,
        stepping(engine) as steps,
    ):
        last = engine.structure.layers[2]
        last.register_forward_hook(hook())
        wanted = answer(steps)
        assert steps.captured
        with traced(engine) as passes:
            assert torch.equal(answer(steps), wanted)
        assert steps.trace_refusal
        assert {each.note for each in passes[1:]} == {steps.trace_refusal}
        assert len(passes) >= ASKED.max_new_tokens
        assert steps.captured
        assert torch.equal(answer(steps), wanted)
        assert not torch.cuda.is_current_stream_capturing()
        # Another cache tries again.
        steps.drop()
        with traced(engine) as passes:
            assert torch.equal(answer(steps), wanted)
        assert steps.trace_refusal is None
        assert any(each.captured for each in passes)


def test_long_steps_are_all_recorded_and_short_ones_within_their_share(
    folder_of: FolderOf,
) -> None:
    with (
        engine_of(
            named("llama"), folder_of(named("llama")), tiers=("accelerator",) * LAYERS, device=GPU
        ) as engine,
        stepping(engine) as steps,
        traced(engine) as passes,
    ):
        answer(steps, GenerationConfig(max_new_tokens=400))
    first, second = [each for each in passes if each.captured][:2]
    # One moment for each layer, the first one's start, the choice and the end.
    assert first.unrecorded >= trace.steps_between(LAYERS + 3, first.total_s) - 1
    assert second.position == first.position + first.unrecorded + 1


def noted_in(recorder: Recorder, layers: torch.nn.ModuleList) -> None:
    """Note resident layers as the engine's hooks do."""

    def before(index: int) -> Callable[..., None]:
        def note(_layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            recorder.begin(index, "accelerator", hidden.shape[1], first=index == 0)
            recorder.ready()

        return note

    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(before(index), with_kwargs=True)
        layer.register_forward_hook(lambda *_args: recorder.end())


@pytest.mark.skipif(kernels() is None, reason="needs Triton")
@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("events", [True, False], ids=["captured", "layer by layer"])
def test_a_trace_over_pages_in_host_memory_changes_no_logits(
    events: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded, "_has_events_inside_graphs", lambda: events)
    model = paging.llama(torch.float32)
    known, mask = paging.known_tokens((700,), 500)
    theirs = paging.forced(model, known, mask, 700)
    recorder = Recorder(GPU, passes=1000)
    tracing: list[Recorder] = []
    steps = RecordedSteps(
        model,
        GPU,
        recorder=lambda: tracing[0] if tracing else None,
        tiers=paging.tiers(model, 1, 1536, 400),
        planned_tokens=1536,
    )
    noted_in(recorder, model.model.layers)
    found = []
    with recorder.aside():
        for number, logits in enumerate(paging.stepped(steps, known, mask, 700)):
            # A trace that comes and goes within the request.
            tracing[:] = [recorder] if 100 <= number < 300 else []
            found.append(logits)
    assert steps.captured
    assert isinstance(steps.cache, PagedCache)
    assert steps.cache.cold_pages >= 11
    assert paging.worst(iter(found), theirs) <= 1e-4
    captured = [each for each in recorder.traces() if each.captured]
    assert bool(captured) == events
    assert (steps.trace_refusal is None) == events
    steps.close()
