from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.activations import activation_bytes
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.planning.memory import (
    attention_layers,
    available_bytes,
    check_budget_holds_a_layer,
    kv_bytes,
    kv_layer_bytes,
    memory_map,
)
from ollm_widgets.planning.memory_map import MemoryMap, TierMemory
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan, packed_bytes
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.prediction import predict_speed
from ollm_widgets.planning.weights import weight_sizes

GIB = 1024**3
SHAPE = ModelShape(4, 64, 128, 4, 2, 16, 1000, 512)


def test_kv_is_keys_and_values_of_every_layer_and_token() -> None:
    assert kv_bytes(SHAPE, "float32", 100) == 2 * 4 * 2 * 16 * 4 * 100
    assert kv_bytes(SHAPE, "bfloat16", 100) == kv_bytes(SHAPE, "float32", 50)


def test_a_window_bounds_the_kv_cache() -> None:
    assert kv_bytes(SHAPE, "float32", 100, 30) == kv_bytes(SHAPE, "float32", 30)
    assert kv_bytes(SHAPE, "float32", 20, 30) == kv_bytes(SHAPE, "float32", 20)


def test_the_models_own_sliding_layers_keep_their_own_window() -> None:
    types = ("sliding_attention", "full_attention", "linear_attention", "full_attention")
    mixed = replace(SHAPE, sliding_window=10, layer_types=types)
    layer = 2 * 2 * 16 * 4
    assert kv_bytes(mixed, "float32", 100) == layer * (2 * 100 + 10)
    assert kv_bytes(replace(mixed, layer_types=None), "float32", 100) == layer * 4 * 10


def test_layers_that_keep_a_state_take_no_room_for_each_token() -> None:
    types = ("mamba", "attention", "conv", "hybrid", "mlp", "sliding_attention")
    mixed = replace(SHAPE, layers=6, sliding_window=10, layer_types=types)
    layer = 2 * 2 * 16 * 4
    held = (0, 100 * layer, 0, 100 * layer, 0, 10 * layer)
    assert kv_layer_bytes(mixed, "float32", 100) == held
    assert attention_layers(mixed) == (2, 1)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_tokens_never_need_less(first: int, second: int) -> None:
    few, many = sorted((first, second))
    assert kv_bytes(SHAPE, "float32", few) <= kv_bytes(SHAPE, "float32", many)
    assert activation_bytes(SHAPE, "float32", few) <= activation_bytes(SHAPE, "float32", many)


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1, 10**5))
def test_shorter_chunks_never_need_more(tokens: int, first: int, second: int) -> None:
    short, long = sorted((first, second))
    whole = activation_bytes(SHAPE, "float32", tokens)
    in_short = activation_bytes(SHAPE, "float32", tokens, short)
    assert in_short <= activation_bytes(SHAPE, "float32", tokens, long) <= whole
    assert activation_bytes(SHAPE, "float32", tokens, tokens) == whole


def test_a_margin_of_free_memory_stays_free() -> None:
    assert available_bytes(4 * GIB, 2 * GIB, None) == 2 * GIB - GIB // 2
    assert available_bytes(100 * GIB, 50 * GIB, None) == 45 * GIB
    assert available_bytes(4 * GIB, 1000, None) == 0


def test_a_budget_is_obeyed_but_makes_no_memory() -> None:
    assert available_bytes(32 * GIB, 20 * GIB, "6GiB") == 6 * GIB
    assert available_bytes(32 * GIB, 20 * GIB, "60GiB") == 20 * GIB


def test_a_budget_below_one_layer_says_how_much_it_needs(
    model: ResolvedModel, laptop: Machine
) -> None:
    sizes = weight_sizes(model, "float32")
    assert sizes is not None
    with pytest.raises(ConfigError, match="14 MiB") as caught:
        check_budget_holds_a_layer(laptop.cpu, RuntimeConfig("x", cpu_memory_budget="1MiB"), sizes)
    assert caught.value.field == "cpu_memory_budget"


def test_weights_are_counted_in_the_dtype_they_run_in(model: ResolvedModel) -> None:
    half, full = weight_sizes(model, "bfloat16"), weight_sizes(model, "float32")
    assert half is not None
    assert full is not None
    assert half.total_bytes == 2 * 134_515_008
    assert full.total_bytes == 2 * half.total_bytes


def test_the_catalog_alone_gives_the_same_sum(model: ResolvedModel) -> None:
    for shape in (None, model.shape):
        sizes = weight_sizes(replace(model, weights=None, shape=shape), "bfloat16")
        assert sizes is not None
        assert sizes.total_bytes == 2 * 134_515_008
        assert len(sizes.layer_bytes) == 30


def test_of_an_unknown_model_nothing_is_claimed(model: ResolvedModel) -> None:
    profile = replace(model.capabilities, parameters=None, bytes_on_disk=None, dtype=None)
    assert weight_sizes(replace(model, weights=None, capabilities=profile), "float32") is None


def test_a_token_reads_a_tied_embedding_and_not_an_untied_one(
    model: ResolvedModel, large_model: ResolvedModel
) -> None:
    tied, untied = weight_sizes(model, "bfloat16"), weight_sizes(large_model, "bfloat16")
    assert tied is not None
    assert untied is not None
    assert tied.read_per_token_bytes == tied.total_bytes
    assert untied.read_per_token_bytes == untied.total_bytes - 2 * 128_256 * 4096


EXPERTS_BYTES = 2 * 128 * 3 * 2048 * 768


def test_the_experts_of_a_layer_are_those_of_the_tensor_headers(
    expert_model: ResolvedModel,
) -> None:
    assert expert_model.weights is not None
    parameters = (0, *expert_model.weights.expert_parameters[1:])
    weights = replace(expert_model.weights, expert_parameters=parameters)
    sizes = weight_sizes(replace(expert_model, weights=weights), "bfloat16")
    assert sizes is not None
    assert (sizes.experts, sizes.active_experts) == (128, 8)
    assert sizes.expert_bytes == (0, *(EXPERTS_BYTES,) * 23)
    assert sizes.dense_bytes[0] == sizes.layer_bytes[0]
    assert sizes.dense_bytes[1] == 2 * 18_878_720


def test_without_headers_experts_are_what_is_neither_attention_nor_router(
    expert_model: ResolvedModel,
) -> None:
    sizes = weight_sizes(replace(expert_model, weights=None), "bfloat16")
    assert sizes is not None
    # One of them is taken as shared by all tokens.
    assert 0.99 * EXPERTS_BYTES < sizes.expert_bytes[0] <= EXPERTS_BYTES
    assert 2 * 18_878_720 < sizes.dense_bytes[0] < 1.3 * 2 * 18_878_720


@pytest.mark.parametrize("model_type", ["llama4", "dbrx", "jetmoe", None])
def test_layers_whose_experts_are_not_surely_stacked_move_whole(
    expert_model: ResolvedModel, model_type: str | None
) -> None:
    whole = weight_sizes(replace(expert_model, model_type=model_type), "bfloat16")
    single = weight_sizes(expert_model, "bfloat16")
    assert whole is not None
    assert single is not None
    assert whole.dense_bytes == whole.layer_bytes == single.layer_bytes
    # What a token reads once the weights are there is the same.
    assert whole.read_per_token_bytes == single.read_per_token_bytes


def test_a_mixture_of_experts_reads_its_active_experts_only(large_model: ResolvedModel) -> None:
    assert large_model.weights is not None
    profile = replace(large_model.capabilities, experts=8, active_experts=2)
    most = tuple(count * 4 // 5 for count in large_model.weights.layer_parameters)
    weights = replace(large_model.weights, expert_parameters=most)
    dense = weight_sizes(large_model, "bfloat16")
    mixture = weight_sizes(replace(large_model, capabilities=profile, weights=weights), "bfloat16")
    assert dense is not None
    assert mixture is not None
    assert mixture.total_bytes == dense.total_bytes
    assert 0.25 < mixture.read_per_token_bytes / dense.read_per_token_bytes < 0.5


def test_decoding_is_bound_by_reading_and_a_prompt_by_arithmetic(
    large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    sizes = weight_sizes(large_model, "bfloat16")
    assert sizes is not None

    def predict(read: float, flops: float, use_cache: bool = True) -> tuple[float, float]:
        speed = predict_speed(
            sizes,
            large_model.shape,
            "bfloat16",
            Bandwidth(read, flops),
            context_tokens=4096,
            use_cache=use_cache,
        )
        assert speed is not None
        return speed.seconds_per_token, speed.time_to_first_token_s

    token_s, first_s = predict(10e9, 100e9)
    assert token_s == pytest.approx(1.5, rel=0.05)  # 15 GB at 10 GB/s
    assert first_s == pytest.approx(71.5, rel=0.05)  # 2 x 7.0e9 x 512 at 100 GFLOP/s
    faster_token_s, same_first_s = predict(20e9, 100e9)
    assert faster_token_s < 0.55 * token_s
    assert same_first_s == pytest.approx(first_s, rel=0.05)
    assert predict(10e9, 100e9, use_cache=False)[0] == pytest.approx(first_s, rel=0.05)


def map_of(
    resolved: ResolvedModel, machine: Machine, tiers: tuple[LayerTier, ...], **parts: Any
) -> MemoryMap:
    sizes = weight_sizes(resolved, "bfloat16")
    assert resolved.shape is not None
    return memory_map(
        machine,
        machine.accelerators[0] if machine.accelerators else machine.cpu,
        RuntimeConfig("x"),
        LayerPlacement(tiers),
        sizes,
        kv_cache_bytes=kv_bytes(resolved.shape, "bfloat16", 1000),
        kv_layer_bytes=kv_layer_bytes(resolved.shape, "bfloat16", 1000),
        activations_bytes=7,
        **parts,
    )


def test_the_map_has_every_layer_in_the_bytes_that_it_takes_where_it_is(
    large_model: ResolvedModel, server: Machine
) -> None:
    tiers: tuple[LayerTier, ...] = ("accelerator",) * 10 + ("host",) * 20 + ("disk",) * 2
    streaming = StreamingPlan(device_slots=4, slot_bytes=2 * 218_112_000, packed=True)
    made = map_of(
        large_model, server, tiers, streaming=streaming, disk=TierMemory("disk", "", 9, 9, 0, 9)
    )
    assert [layer.index for layer in made.layers] == list(range(32))
    assert tuple(layer.tier for layer in made.layers) == tiers
    assert {layer.device for layer in made.layers} == {"cuda:0"}
    raw = 2 * 218_112_000
    assert made.layers[0].weights_bytes == made.layers[31].weights_bytes == raw
    assert made.layers[10].weights_bytes == packed_bytes(raw)
    for place, tier in (("gpu", "accelerator"), ("ram", "host"), ("disk", "disk")):
        held = sum(layer.weights_bytes for layer in made.layers if layer.tier == tier)
        found = made.tier(place)  # type: ignore[arg-type]
        assert found is not None
        assert found.layers_bytes == held
    assert sum(layer.kv_bytes for layer in made.layers) == made.kv_bytes


def test_the_parts_of_buffers_and_layers_are_within_their_sums(
    expert_model: ResolvedModel, server: Machine
) -> None:
    streaming = StreamingPlan(
        device_slots=4,
        slot_bytes=2 * 18_878_720,
        expert_streaming=True,
        expert_slots=16,
        expert_room_bytes=500,
        expert_cache_bytes=3000,
        staging_slots=2,
        expert_staging_bytes=40,
    )
    tiers: tuple[LayerTier, ...] = ("accelerator",) * 4 + ("host",) * 20
    made = map_of(expert_model, server, tiers, streaming=streaming)
    gpu, ram = made.tier("gpu"), made.tier("ram")
    assert gpu is not None
    assert ram is not None
    assert gpu.staging_bytes == gpu.ring_bytes + gpu.expert_cache_bytes + 500
    assert (gpu.ring_bytes, gpu.expert_cache_bytes) == (4 * 2 * 18_878_720, 3000)
    assert (ram.ring_bytes, ram.staging_bytes) == (2 * 2 * 18_878_720, 2 * 2 * 18_878_720 + 40)
    assert gpu.experts_bytes == 4 * EXPERTS_BYTES
    assert ram.experts_bytes == 20 * EXPERTS_BYTES
    assert ram.experts_bytes < ram.layers_bytes
    assert (gpu.device, ram.device) == ("cuda:0", "cpu")


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.booleans())
def test_a_tier_adds_up(capacity: int, free: int, needed: int, bounded: bool) -> None:
    free = min(free, capacity)
    budget = free // 2 if bounded else None
    tier = TierMemory(
        "ram",
        "RAM",
        capacity,
        free,
        capacity - free,
        available_bytes(capacity, free, budget),
        layers_bytes=needed,
        budget_bytes=budget,
    )
    assert tier.margin_bytes == (0 if bounded else free - tier.available_bytes)
    assert tier.fits == (tier.missing_bytes == 0)
    assert tier.free_after_bytes == max(free - needed, 0)
    if tier.fits:
        whole = tier.used_by_others_bytes + tier.needed_bytes + tier.free_after_bytes
        assert whole == capacity
        assert bounded or tier.free_after_bytes >= tier.margin_bytes


def test_weights_take_no_more_room_on_a_disk_that_has_them() -> None:
    disk = TierMemory("disk", "Disk", 100, 40, 60, 40, layers_bytes=30, kv_bytes=10)
    assert disk.free_after_bytes == 30


def test_without_known_layers_the_map_names_none(model: ResolvedModel, laptop: Machine) -> None:
    unknown = replace(model, weights=None, shape=None)
    profile = replace(unknown.capabilities, parameters=None, bytes_on_disk=None)
    assert weight_sizes(replace(unknown, capabilities=profile), "bfloat16") is None
    made = memory_map(
        laptop,
        laptop.cpu,
        RuntimeConfig("x"),
        LayerPlacement(("host",) * 30),
        None,
        kv_cache_bytes=0,
        activations_bytes=0,
    )
    assert made.layers == ()
    assert made.tiers[0].layer_count == 30


def test_layers_with_a_window_keep_every_token_where_steps_are_captured() -> None:
    slides = replace(SHAPE, sliding_window=10)
    assert kv_bytes(slides, "float32", 100) == kv_bytes(SHAPE, "float32", 10)
    assert kv_bytes(slides, "float32", 100, every_token=True) == kv_bytes(SHAPE, "float32", 100)
    # A strategy with a window has another cache, in which they slide.
    windowed = kv_bytes(slides, "float32", 100, 50, every_token=True)
    assert windowed == kv_bytes(SHAPE, "float32", 10)


def test_a_plan_for_cuda_counts_every_token_of_sliding_layers(
    plan: Any, large_model: ResolvedModel, server: Machine, laptop: Machine
) -> None:
    assert large_model.shape is not None
    shape = replace(large_model.shape, sliding_window=1024)
    slides = replace(large_model, shape=shape)
    on_gpu = plan(slides, server, context_tokens=8192).memory
    on_cpu = plan(slides, laptop, context_tokens=8192, dtype="bfloat16").memory
    assert on_gpu.kv_bytes == kv_bytes(shape, "bfloat16", 8192, every_token=True)
    assert on_cpu.kv_bytes == kv_bytes(shape, "bfloat16", 1024)
