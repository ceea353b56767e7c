"""Layers on several accelerators, each with a wire of its own; skipped with fewer than two."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader
from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.planning.plan import RuntimePlan
from tests.models.architectures import Architecture
from tests.weights.on_gpu import (
    GPU,
    PLACEMENTS,
    RING,
    FolderOf,
    References,
    assert_answers,
    held_bytes,
    on_gpu,
)
from tests.weights.streamed_models import (
    ALONE,
    BATCHES,
    DECODERS,
    MIXTURES,
    PADDED,
    engine_of,
    greedy,
    named,
    prompts,
    save_large,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]

HERE, THERE = "cuda:0", "cuda:1"
SPREADS = {
    "in turn": (HERE, THERE, HERE, THERE, HERE),
    "in runs": (HERE, HERE, HERE, THERE, THERE),
    "ending elsewhere": (HERE, THERE, THERE, HERE, THERE),
}
PRECISIONS = {
    "float32": (torch.float32, False),
    "bfloat16, packed": (torch.bfloat16, True),
}
LAYERS_OF_LARGE = 24
SHORT = GenerationConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def references(folder_of: FolderOf) -> References:
    return References(folder_of)


@pytest.fixture(scope="module")
def large(saved_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 MiB a layer."""
    return save_large(saved_llama, tmp_path_factory.mktemp("gpus") / "large", LAYERS_OF_LARGE)


@pytest.mark.usefixtures("packed_however_small")
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_tokens_are_those_of_one_device(
    architecture: Architecture,
    precision: str,
    spread: str,
    folder_of: FolderOf,
    references: References,
) -> None:
    dtype, packed = PRECISIONS[precision]
    with engine_of(
        architecture,
        folder_of(architecture),
        dtype=dtype,
        streaming=replace(RING, packed=packed),
        device=GPU,
        devices=SPREADS[spread],
    ) as engine:
        for tiers in PLACEMENTS.values():
            reached = engine.rebalance(LayerPlacement(tiers))
            assert reached == LayerPlacement(tiers, SPREADS[spread])
            assert not engine.arranged.capturable
            for batch in BATCHES:
                assert_answers(engine, references, architecture, dtype, batch)


@pytest.mark.parametrize("architecture", MIXTURES, ids=str)
def test_experts_come_to_the_device_of_their_layer(
    architecture: Architecture, folder_of: FolderOf, references: References
) -> None:
    chosen = architecture.experts[1]
    assert chosen is not None
    streaming = replace(RING, expert_streaming=True, expert_slots=3 * chosen)
    with engine_of(
        architecture,
        folder_of(architecture),
        streaming=streaming,
        device=GPU,
        devices=SPREADS["in turn"],
    ) as engine:
        for name in ("all on disk", "all in host memory", "mixed"):
            engine.rebalance(LayerPlacement(PLACEMENTS[name]))
            assert len(engine.arranged.experts) == 2
            for batch in BATCHES:
                assert_answers(engine, references, architecture, torch.float32, batch)


def test_each_device_holds_its_own_layers_and_gives_them_back(folder_of: FolderOf) -> None:
    llama = named("llama")
    tiers = PLACEMENTS["all on the accelerator"]
    there = torch.device(THERE)
    before = held_bytes(there)
    with engine_of(
        llama, folder_of(llama), tiers=tiers, device=GPU, devices=SPREADS["in runs"]
    ) as engine:
        for layer, device in zip(engine.structure.layers, SPREADS["in runs"], strict=True):
            assert {str(parameter.device) for parameter in layer.parameters()} == {device}
        assert torch.cuda.memory_allocated(there) - before == 2 * engine.layer_bytes[0]
    assert held_bytes(there) == before


def test_a_trace_shows_the_layers_of_all_devices(folder_of: FolderOf) -> None:
    llama = named("llama")
    tiers = PLACEMENTS["mixed"]
    with engine_of(
        llama,
        folder_of(llama),
        tiers=tiers,
        streaming=RING,
        device=GPU,
        devices=SPREADS["in turn"],
    ) as engine:
        engine.start_trace()
        greedy(engine.model, on_gpu(PADDED))
        passes = engine.stop_trace()
    for each in passes:
        assert tuple(layer.tier for layer in each.layers) == tiers
        assert all(layer.compute_s > 0 for layer in each.layers)


def answer(large: Path, **settings: object) -> tuple[RuntimePlan, torch.Tensor, list[int]]:
    """Plan, greedy ids, and the bytes that each device had to find for them at once."""
    config = RuntimeConfig(large, backend="optimized-native", dtype="float32", **settings)  # type: ignore[arg-type]  # the fields asked for vary
    before = [held_bytes(torch.device(name)) for name in (HERE, THERE)]
    for number in range(len(before)):
        torch.cuda.reset_peak_memory_stats(number)
    with RuntimeLoader().load(config) as runtime:
        ids = runtime.generate(ALONE.input_ids, SHORT).cpu()
        peaks = [torch.cuda.max_memory_allocated(number) for number in range(len(before))]
        taken = [peak - held for peak, held in zip(peaks, before, strict=True)]
        return runtime.plan, ids, taken


@pytest.mark.parametrize(
    ("budget", "kept"),
    [("620MiB", range(24, 25)), ("560MiB", range(1, 24)), ("220MiB", range(1))],
    ids=["all stays", "some streams", "all streams"],
)
def test_a_model_that_no_gpu_holds_alone_answers_from_both_within_their_budgets(
    budget: str, kept: range, large: Path
) -> None:
    alone, wanted, _ = answer(large, device=HERE)
    assert alone.devices == (HERE,)
    plan, got, taken = answer(large, device="cuda", gpu_memory_budget=budget)
    assert not plan.fallback_reason
    assert plan.devices == (HERE, THERE)
    assert plan.placement.accelerator_layers in kept
    assert torch.equal(got, wanted)
    for peak, tier in zip(taken, plan.memory.gpus, strict=True):
        assert 0 < peak <= tier.available_bytes


def test_requests_that_were_cancelled_leave_rings_that_answer(large: Path) -> None:
    config = RuntimeConfig(
        large,
        backend="optimized-native",
        device="cuda",
        dtype="float32",
        gpu_memory_budget="220MiB",
        offload_gpu_layers=0,
        offload_cpu_layers=LAYERS_OF_LARGE,
    )
    prompt = prompts([12], seed=5)
    with RuntimeLoader().load(config) as runtime:
        assert set(runtime.plan.placement.devices) == {HERE, THERE}
        wanted = runtime.generate(prompt.input_ids, SHORT)
        for stop_at in range(6):
            cancel = threading.Event()
            for delta in runtime.stream("w5 w6", GenerationConfig(max_new_tokens=20), cancel):
                if delta.new_tokens >= stop_at:
                    cancel.set()
            assert torch.equal(runtime.generate(prompt.input_ids, SHORT), wanted)
