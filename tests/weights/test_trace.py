"""What a trace says about passes, and that it leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ollm_widgets.errors import Cancelled
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.weights import trace
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.steps.moments import Moments
from ollm_widgets.weights.trace import LayerTrace, PassTrace, Recorder, steps_between
from tests.models.architectures import Architecture
from tests.weights.streamed_models import (
    ALONE,
    CPU,
    LAYERS,
    NEW_TOKENS,
    PADDED,
    PROMPT_TOKENS,
    engine_of,
    greedy,
    logits,
    named,
)

FolderOf = Callable[[Architecture], Path]
LLAMA = named("llama")
MIXED: tuple[LayerTier, ...] = ("host", "disk", "disk", "host", "disk")


def hooks_of(engine: WeightEngine) -> list[int]:
    """How many hooks each layer has."""
    return [
        len(layer._forward_hooks) + len(layer._forward_pre_hooks)
        for layer in engine.structure.layers
    ]


def test_every_pass_of_a_request_is_recorded_with_every_layer_and_its_tier(
    folder_of: FolderOf,
) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=MIXED) as engine:
        engine.start_trace()
        assert engine.tracing
        greedy(engine.model, PADDED)
        passes = engine.stop_trace()
    assert [each.tokens for each in passes] == [PROMPT_TOKENS] + [1] * (NEW_TOKENS - 1)
    for each in passes:
        assert [layer.layer for layer in each.layers] == list(range(LAYERS))
        assert tuple(layer.tier for layer in each.layers) == MIXED


def test_the_times_of_layers_are_parts_of_their_pass(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=MIXED) as engine:
        engine.start_trace()
        greedy(engine.model, ALONE)
        passes = engine.stop_trace()
    for each in passes:
        parts = [
            layer.disk_wait_s + layer.device_copy_s + layer.unpack_s + layer.compute_s
            for layer in each.layers
        ]
        assert all(part > 0 for part in parts)
        assert sum(parts) <= each.total_s
        assert each.waiting_s <= each.total_s
        for layer in each.layers:
            assert min(layer.disk_wait_s, layer.device_copy_s, layer.unpack_s) >= 0
            assert layer.compute_s > 0


def test_the_last_passes_are_kept(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA)) as engine:
        engine.start_trace(passes=2)
        greedy(engine.model, ALONE)
        passes = engine.stop_trace()
    assert [each.tokens for each in passes] == [1, 1]


def test_a_pass_that_was_cut_short_is_left_out(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA)) as engine:
        engine.start_trace()
        logits(engine.model, ALONE)

        def stop(_layer: nn.Module, _args: object) -> None:
            raise Cancelled("in the middle")

        hook = engine.structure.layers[3].register_forward_pre_hook(stop)
        with pytest.raises(Cancelled):
            logits(engine.model, ALONE)
        hook.remove()
        logits(engine.model, PADDED)
        passes = engine.stop_trace()
    assert [len(each.layers) for each in passes] == [LAYERS, LAYERS]


def test_chunks_of_a_prompt_are_one_pass(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA)) as engine:
        engine.chunk_prompts(7)
        engine.start_trace()
        logits(engine.model, ALONE)
        (only,) = engine.stop_trace()
    assert only.tokens == PROMPT_TOKENS
    assert len(only.layers) == LAYERS


def test_without_a_trace_only_streamed_layers_have_hooks(folder_of: FolderOf) -> None:
    streamed = [2 * (tier == "disk") for tier in MIXED]
    with engine_of(LLAMA, folder_of(LLAMA), tiers=MIXED) as engine:
        assert hooks_of(engine) == streamed
        engine.start_trace()
        assert hooks_of(engine) == [2] * LAYERS
        engine.stop_trace()
        assert not engine.tracing
        assert hooks_of(engine) == streamed
        assert engine.stop_trace() == ()
    assert hooks_of(engine) == [0] * LAYERS


def test_a_trace_goes_on_while_layers_move(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=MIXED) as engine:
        before = engine.placement
        engine.start_trace()
        logits(engine.model, ALONE)
        engine.rebalance(type(before)(("host",) * LAYERS))
        logits(engine.model, ALONE)
        first, second = engine.stop_trace()
        assert hooks_of(engine) == [0] * LAYERS
    assert tuple(layer.tier for layer in first.layers) == MIXED
    assert {layer.tier for layer in second.layers} == {"host"}


def test_recording_changes_no_token(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA), tiers=MIXED) as engine:
        wanted = greedy(engine.model, PADDED)
        engine.start_trace()
        with engine.request(threading.Event()):
            assert torch.equal(greedy(engine.model, PADDED), wanted)
        engine.stop_trace()


def test_a_recorder_without_a_pass_has_no_traces() -> None:
    assert Recorder(CPU).traces() == ()


def test_waiting_is_what_was_not_computed() -> None:
    layers = (LayerTrace(0, "disk", 1.0, 0.5, 0.25, 2.0), LayerTrace(1, "host", 0.0, 0.25, 0.0, 1))
    assert PassTrace(1, layers, 5.0).waiting_s == 1.75


# ---------------------------------------------------------------------- captured steps


class At:
    """An event at a given second, which can pass again later."""

    def __init__(self, second: float) -> None:
        self.second = second

    def elapsed_time(self, end_event: At) -> float:
        return (end_event.second - self.second) * 1000


def step_of(layers: int, *, layer_s: float) -> tuple[Moments, list[At]]:
    """Moments of a captured step of resident layers, and the events inside it."""
    events: list[At] = []

    def now() -> At:
        events.append(At(len(events) * layer_s))
        return events[-1]

    moments = Moments(1, now, sparing=True)
    for layer in range(layers):
        moments.begin(layer, "accelerator")
        moments.ready()
        moments.end()
    moments.chosen()
    moments.over()
    return moments, events


@given(moments=st.integers(1, 1000), step_s=st.floats(0, 10))
def test_moments_stay_within_their_share_of_the_time(moments: int, step_s: float) -> None:
    every = steps_between(moments, step_s)
    assert every >= 1
    spent_s = moments * trace._MOMENT_S / every
    assert spent_s <= trace._SHARE * max(step_s, trace._MOMENT_S) * (1 + 1e-9)
    # No more steps go by than must.
    if every > 1:
        assert moments * trace._MOMENT_S / (every - 1) > trace._SHARE * step_s * (1 - 1e-9)


def test_an_8b_model_is_recorded_in_every_streamed_step_and_in_each_third_resident_one() -> None:
    assert steps_between(32 * 3 + 3, 0.190) == 1
    assert steps_between(32 + 3, 0.0062) == 3


def test_a_replayed_step_is_read_before_its_moments_pass_again() -> None:
    recorder = Recorder(CPU)
    moments, events = step_of(LAYERS, layer_s=1.0)
    reached = False
    assert recorder.takes_step()
    recorder.replayed(moments, 70, lambda: reached)
    # The device is not through with it: others run unrecorded.
    assert not recorder.takes_step()
    assert not recorder.takes_step()
    reached = True
    assert recorder.takes_step()
    # From here on the graph may run again.
    for number, event in enumerate(events):
        event.second = 100 + 2.0 * number
    recorder.replayed(moments, 73, lambda: reached)
    first, second = recorder.traces()
    assert (first.position, first.unrecorded) == (70, 2)
    assert (second.position, second.unrecorded) == (73, 0)
    assert [layer.compute_s for layer in first.layers] == [1.0] * LAYERS
    assert [layer.compute_s for layer in second.layers] == [2.0] * LAYERS
    assert (first.head_s, first.ahead_wait_s, first.total_s) == (1.0, 1.0, LAYERS + 2.0)
    assert first.captured
    assert first.waiting_s == 1.0


def test_short_steps_go_by_until_recording_has_earned_its_time() -> None:
    recorder = Recorder(CPU)
    moments, _events = step_of(LAYERS, layer_s=1e-4)
    taken = []
    for position in range(100):
        if recorder.takes_step():
            recorder.replayed(moments, position, lambda: True)
            taken.append(position)
    every = steps_between(LAYERS + 3, (LAYERS + 2) * 1e-4)
    assert every > 2
    assert taken == list(range(0, 100, every))
    passes = recorder.traces()
    assert len(passes) + sum(each.unrecorded for each in passes) == 100


def test_what_is_noted_aside_is_no_pass() -> None:
    recorder = Recorder(CPU)

    def run(layers: int) -> None:
        for layer in range(layers):
            recorder.begin(layer, "host", 9, first=layer == 0)
            recorder.read()
            recorder.copied()
            recorder.ready()
            recorder.end()

    with recorder.aside():
        run(LAYERS)
    assert recorder.traces() == ()
    run(2)
    within = Moments(1, lambda: 0.0)
    with recorder.aside(within):
        run(LAYERS)
    run(3)
    assert [len(each.layers) for each in recorder.traces()] == [2, 3]
    assert len(within.times(within.seconds()).layers) == LAYERS
