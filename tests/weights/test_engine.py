"""The engine on a CPU: the same tokens as transformers, wherever the layers are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ollm_widgets.errors import Cancelled, SpecializationLoadError
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.weights.engine import WeightEngine
from ollm_widgets.weights.model.skeleton import build_skeleton
from tests.models.architectures import Architecture
from tests.weights.streamed_models import (
    ALONE,
    BATCHES,
    CPU,
    DECODERS,
    LAYERS,
    MIXTURES,
    PADDED,
    Prompts,
    engine_of,
    greedy,
    logits,
    named,
    whole,
)

FolderOf = Callable[[Architecture], Path]
DISK, RAM = ("disk",) * LAYERS, ("host",) * LAYERS
PLACEMENTS: dict[str, tuple[LayerTier, ...]] = {
    "all on disk": DISK,
    "all in RAM": RAM,
    "mixed": ("host", "disk", "disk", "host", "disk"),
    "one in RAM": ("disk", "disk", "host", "disk", "disk"),
}
CHUNKS = (1, 7, 64, None)
DTYPES = (torch.float32, torch.bfloat16)
LLAMA = named("llama")


@dataclass(frozen=True)
class Reference:
    """What transformers makes of the prompts, and how far its dtype lets it stray."""

    ids: dict[str, torch.Tensor]
    logits: dict[str, torch.Tensor]
    exact: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def reference_of(folder_of: FolderOf) -> Callable[[Architecture, torch.dtype], Reference]:
    known: dict[tuple[str, torch.dtype], Reference] = {}

    def reference(architecture: Architecture, dtype: torch.dtype) -> Reference:
        key = architecture.model_type, dtype
        if key not in known:
            model = whole(architecture, folder_of(architecture), dtype)
            own = {name: logits(model, prompt) for name, prompt in BATCHES.items()}
            exact = own
            if dtype != torch.float32:
                exact = reference(architecture, torch.float32).logits
            ids = {name: greedy(model, prompt) for name, prompt in BATCHES.items()}
            known[key] = Reference(ids, own, exact)
        return known[key]

    return reference


def assert_same_tokens(
    got: torch.Tensor, wanted: torch.Tensor, model: nn.Module, prompt: Prompts, noise: float
) -> None:
    """Tokens are identical; after the first that two logits within `noise` tie for, nothing is."""
    start = prompt.input_ids.shape[1]
    for row in range(got.shape[0]):
        differing = (got[row] != wanted[row]).nonzero().flatten()
        if not len(differing):
            continue
        first = int(differing[0])
        assert noise
        assert first >= start
        mask = torch.ones_like(got)
        mask[:, :start] = prompt.attention_mask
        with torch.no_grad():
            scores = model(wanted[:, :first], attention_mask=mask[:, :first]).logits[row, -1]
        assert (scores[got[row, first]] - scores[wanted[row, first]]).abs() <= noise


def assert_within_noise(got: torch.Tensor, reference: Reference, batch: str) -> float:
    """Logits stray from the float32 model's as far as transformers' own do; returns how far."""
    exact, own = reference.exact[batch], reference.logits[batch]
    if exact is own:
        torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))
        return 0.0
    allowed, strayed = (own - exact).abs(), (got - exact).abs()
    assert strayed.mean() <= 1.25 * allowed.mean()
    assert strayed.max() <= 2 * allowed.max()
    return float(2 * allowed.max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_tokens_are_those_of_transformers_in_every_placement_and_chunk_size(
    architecture: Architecture,
    dtype: torch.dtype,
    folder_of: FolderOf,
    reference_of: Callable[[Architecture, torch.dtype], Reference],
) -> None:
    reference = reference_of(architecture, dtype)
    with engine_of(architecture, folder_of(architecture), dtype=dtype) as engine:
        for turn, tiers in enumerate(PLACEMENTS.values()):
            assert engine.rebalance(LayerPlacement(tiers)).tiers == tiers
            for number, rows in enumerate(CHUNKS):
                engine.chunk_prompts(rows)
                # Rounding in bfloat16 is tried with every other batch, which halves the time.
                skipped = (turn + number) % 2 if dtype == torch.bfloat16 else None
                for index, (batch, prompt) in enumerate(BATCHES.items()):
                    if index == skipped and rows is not None:
                        continue
                    noise = 0.0
                    if turn == number or rows is None:
                        held = logits(engine.model, prompt)
                        if rows is None:
                            assert torch.equal(held, reference.logits[batch])
                        else:
                            noise = assert_within_noise(held, reference, batch)
                    if rows is not None and dtype == torch.bfloat16:
                        spread = (reference.logits[batch] - reference.exact[batch]).abs().max()
                        noise = float(2 * spread)
                    got = greedy(engine.model, prompt)
                    assert_same_tokens(got, reference.ids[batch], engine.model, prompt, noise)


@pytest.mark.parametrize(
    ("dtype", "cached"),
    [(torch.float32, 0), (torch.bfloat16, 3)],
    ids=["float32", "bfloat16, hot experts"],
)
@pytest.mark.parametrize("architecture", MIXTURES, ids=str)
def test_tokens_are_the_same_where_only_the_chosen_experts_move(
    architecture: Architecture,
    dtype: torch.dtype,
    cached: int,
    folder_of: FolderOf,
    reference_of: Callable[[Architecture, torch.dtype], Reference],
) -> None:
    reference = reference_of(architecture, dtype)
    chosen = architecture.experts[1]
    assert chosen is not None
    streaming = StreamingPlan(
        device_slots=2,
        expert_streaming=True,
        expert_slots=3 * chosen,
        expert_cache_bytes=cached * 16 * 1024,
    )
    with engine_of(
        architecture, folder_of(architecture), dtype=dtype, streaming=streaming
    ) as engine:
        for name in ("all in RAM", "mixed", "all on disk"):
            engine.rebalance(LayerPlacement(PLACEMENTS[name]))
            assert bool(engine.arranged.experts) == (name != "all in RAM")
            for rows, batch in ((None, "three, padded"), (7, "one")):
                engine.chunk_prompts(rows)
                prompt = BATCHES[batch]
                noise = assert_within_noise(logits(engine.model, prompt), reference, batch)
                got = greedy(engine.model, prompt)
                assert_same_tokens(got, reference.ids[batch], engine.model, prompt, noise)


# ---------------------------------------------------------------------- what is where


def storages(module: nn.Module) -> set[int]:
    """Addresses of the memory that a module's parameters look at."""
    return {
        tensor.untyped_storage().data_ptr() for tensor in module.parameters() if not tensor.is_meta
    }


@pytest.mark.parametrize("architecture", DECODERS, ids=str)
def test_every_parameter_has_its_memory_once_loaded_and_none_once_closed(
    architecture: Architecture, folder_of: FolderOf
) -> None:
    folder = folder_of(architecture)
    with engine_of(architecture, folder, tiers=PLACEMENTS["mixed"]) as engine:
        model = engine.model
        assert not [name for name, tensor in model.state_dict().items() if tensor.is_meta]
        assert not [name for name, tensor in model.named_buffers() if tensor.is_meta]
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize("architecture", [LLAMA, named("deepseek_v3")], ids=str)
def test_a_layer_that_leaves_memory_leaves_nothing_behind(
    architecture: Architecture, folder_of: FolderOf
) -> None:
    with engine_of(architecture, folder_of(architecture), tiers=RAM) as engine:
        layers = engine.structure.layers
        before = [storages(layer) for layer in layers]
        assert all(len(each) == 1 for each in before)
        engine.rebalance(LayerPlacement(DISK))
        slots = set[int]().union(*(storages(layer) for layer in layers))
        assert len(slots) == 2
        buffers = [buffer for layer in layers for buffer in layer.buffers()]
        held = {
            tensor.untyped_storage().nbytes()
            for tensor in (*buffers, *(p for layer in layers for p in layer.parameters()))
        }
        assert sum(held) <= 2 * engine.memory().host_ring_bytes


@pytest.mark.parametrize("tiers", PLACEMENTS.values(), ids=PLACEMENTS)
def test_memory_counts_each_layer_where_it_is(
    tiers: tuple[LayerTier, ...], folder_of: FolderOf
) -> None:
    with engine_of(LLAMA, folder_of(LLAMA)) as engine:
        layer = engine.memory().disk_layers_bytes // LAYERS
        assert layer * LAYERS == engine.memory().disk_layers_bytes
        for placement in (tiers, DISK, tiers):
            engine.rebalance(LayerPlacement(placement))
            use = engine.memory()
            assert use.host_layers_bytes == placement.count("host") * layer
            assert use.disk_layers_bytes == placement.count("disk") * layer
            assert use.host_ring_bytes == min(2, placement.count("disk")) * layer
            assert engine.placement.tiers == placement
        parameters = {p.data_ptr(): p.nbytes for p in engine.model.parameters()}
        assert use.host_other_bytes < sum(parameters.values())
    assert engine.memory().host_layers_bytes == engine.memory().host_other_bytes == 0
    assert engine.memory().host_ring_bytes == 0


def test_a_token_allocates_no_memory_for_weights_however_many_layers_stream(
    folder_of: FolderOf,
) -> None:
    taken: dict[str, int] = {}
    for name, tiers in (("streamed", DISK), ("resident", RAM)):
        with engine_of(LLAMA, folder_of(LLAMA), tiers=tiers) as engine:
            token = Prompts(ALONE.input_ids[:, :1], ALONE.attention_mask[:, :1])
            addresses = [p.data_ptr() for p in engine.model.parameters()]
            for _ in range(3):
                logits(engine.model, token)
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
                logits(engine.model, token)
            taken[name] = sum(
                max(event.self_cpu_memory_usage, 0) for event in profiled.key_averages()
            )
            assert [p.data_ptr() for p in engine.model.parameters()] == addresses
    assert taken["streamed"] == taken["resident"] > 0


# ---------------------------------------------------------------------- loading and moving


def test_a_load_counts_up_to_the_bytes_that_stay_in_memory(folder_of: FolderOf) -> None:
    tiers = PLACEMENTS["mixed"]
    folder = folder_of(LLAMA)
    model = build_skeleton(folder, torch.bfloat16, CPU, LLAMA.kind)
    engine = WeightEngine(
        model, folder, device=CPU, placement=LayerPlacement(tiers), streaming=StreamingPlan()
    )
    seen: list[tuple[int, int]] = []
    with contextlib.closing(engine):
        engine.load(lambda done, total: seen.append((done, total)), threading.Event())
        use = engine.memory()
    assert seen[0][0] == 0
    assert seen == sorted(seen)
    assert seen[-1] == (seen[-1][1], use.host_layers_bytes + use.host_other_bytes)


@pytest.mark.parametrize("after", range(LAYERS + 1))
def test_a_load_that_is_cancelled_holds_nothing(after: int, folder_of: FolderOf) -> None:
    folder = folder_of(LLAMA)
    cancel = threading.Event()
    calls = 0

    def progress(_done: int, _total: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            cancel.set()

    model = build_skeleton(folder, torch.bfloat16, CPU, LLAMA.kind)
    engine = WeightEngine(
        model, folder, device=CPU, placement=LayerPlacement(RAM), streaming=StreamingPlan()
    )
    with pytest.raises(Cancelled):
        engine.load(progress, cancel)
    assert engine.memory().host_layers_bytes == engine.memory().host_other_bytes == 0
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_move_that_is_cancelled_leaves_a_model_that_works(folder_of: FolderOf) -> None:
    wanted = greedy(whole(LLAMA, folder_of(LLAMA), torch.float32), ALONE)
    with engine_of(LLAMA, folder_of(LLAMA)) as engine:
        cancel = threading.Event()
        cancel.set()
        with pytest.raises(Cancelled):
            engine.rebalance(LayerPlacement(RAM), cancel)
        assert engine.placement.tiers == DISK
        assert torch.equal(greedy(engine.model, ALONE), wanted)
        engine.rebalance(LayerPlacement(RAM))
        assert torch.equal(greedy(engine.model, ALONE), wanted)


def test_chunking_ends_where_it_is_taken_back_or_the_engine_closes(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA)) as engine:
        model = engine.model
        for rows in (1, 7, 64):
            engine.chunk_prompts(rows)
        engine.chunk_prompts(None)
        assert not [m for m in model.modules() if "forward" in m.__dict__]
        engine.chunk_prompts(7)
        assert [m for m in model.modules() if "forward" in m.__dict__]
    assert not [m for m in model.modules() if "forward" in m.__dict__]
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_closing_twice_and_using_it_afterwards_are_harmless(folder_of: FolderOf) -> None:
    with engine_of(LLAMA, folder_of(LLAMA)) as engine:
        pass
    engine.close()
    with pytest.raises(RuntimeError, match="not loaded"):
        _ = engine.arranged
    assert engine.stop_trace() == ()


def test_a_request_that_is_cancelled_ends_between_layers_and_the_next_one_works(
    folder_of: FolderOf,
) -> None:
    wanted = greedy(whole(LLAMA, folder_of(LLAMA), torch.float32), PADDED)
    with engine_of(LLAMA, folder_of(LLAMA)) as engine:
        for layer in range(LAYERS):
            cancel = threading.Event()
            hook = engine.structure.layers[layer].register_forward_hook(
                lambda *_, event=cancel: event.set()
            )
            with engine.request(cancel), contextlib.suppress(Cancelled):
                logits(engine.model, PADDED)
            hook.remove()
            assert cancel.is_set()
            assert torch.equal(greedy(engine.model, PADDED), wanted)


# ---------------------------------------------------------------------- what is refused


def test_a_plan_for_another_number_of_layers_is_refused_with_both_numbers(
    folder_of: FolderOf,
) -> None:
    with (
        pytest.raises(SpecializationLoadError, match="places 3 layers, the model has 5"),
        engine_of(LLAMA, folder_of(LLAMA), tiers=("disk",) * 3),
    ):
        pass


def test_layers_that_share_weights_are_refused_by_name(folder_of: FolderOf) -> None:
    folder = folder_of(LLAMA)
    model = build_skeleton(folder, torch.float32, CPU, LLAMA.kind)
    model.all_tied_weights_keys = {
        "model.layers.1.mlp.up_proj.weight": "model.layers.0.mlp.up_proj.weight"
    }
    with pytest.raises(SpecializationLoadError, match=r"share weights \(model\.layers\.1"):
        WeightEngine(
            model, folder, device=CPU, placement=LayerPlacement(RAM), streaming=StreamingPlan()
        )
