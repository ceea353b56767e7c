"""Plans for quantized checkpoints: as they are stored where they wait, expanded where they run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.parts import packed_bytes
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.weights import WeightSizes, weight_sizes
from tests.planning.search.layers import SPEEDS

HOST = {"offload_gpu_layers": 0, "offload_cpu_layers": 32, "dtype": "bfloat16"}


@pytest.fixture(scope="session")
def in_8_bits(large_model: ResolvedModel) -> ResolvedModel:
    """The large model with all but the norms of its layers in 8 bits."""
    weights = large_model.weights
    assert weights is not None
    norms = 2 * 4096
    quantized = tuple(count - norms for count in weights.layer_parameters)
    scaled = tuple(count + count // 4096 for count in quantized)
    return replace(
        large_model,
        quantization=Quantization("fp8"),
        weights=replace(
            weights,
            dtype="float8_e4m3fn",
            layer_bytes=tuple(size + 2 * norms for size in scaled),
            quantized_bytes=scaled,
            quantized_parameters=quantized,
            quantized_expert_bytes=(0,) * len(quantized),
            quantized_expert_parameters=(0,) * len(quantized),
        ),
    )


@pytest.fixture(scope="session")
def experts_in_4_bits(expert_model: ResolvedModel) -> ResolvedModel:
    """The mixture with its experts in 4 bits."""
    weights = expert_model.weights
    assert weights is not None
    in_experts = weights.expert_parameters
    stored = tuple(count * 17 // 32 for count in in_experts)
    dense = zip(weights.layer_parameters, in_experts, strict=True)
    return replace(
        expert_model,
        quantization=Quantization("mxfp4"),
        weights=replace(
            weights,
            layer_bytes=tuple(
                2 * (count - experts) + size
                for (count, experts), size in zip(dense, stored, strict=True)
            ),
            expert_bytes=stored,
            quantized_bytes=stored,
            quantized_parameters=in_experts,
            quantized_expert_bytes=stored,
            quantized_expert_parameters=in_experts,
        ),
    )


def sizes_of(model: ResolvedModel) -> WeightSizes:
    sizes = weight_sizes(model, "bfloat16")
    assert sizes is not None
    return sizes


def test_layers_that_wait_and_cross_count_as_they_are_stored(
    plan: Any, in_8_bits: ResolvedModel, server: Machine
) -> None:
    sizes, made = sizes_of(in_8_bits), plan(in_8_bits, server, **HOST)
    assert in_8_bits.weights is not None
    stored, raw = in_8_bits.weights.layer_bytes[0], sizes.layer_bytes[0]
    assert 0.5 < stored / raw < 0.51
    streaming = made.streaming
    assert (streaming.stored_slot_bytes, streaming.slot_bytes) == (stored, raw)
    assert streaming.device_bytes == streaming.device_slots * stored + raw
    assert streaming.captured_steps
    assert not streaming.packed
    assert made.memory.tier("ram").layers_bytes == 32 * stored
    assert made.memory.tier("gpu").ring_bytes == streaming.device_bytes


def test_layers_that_stay_on_the_accelerator_count_as_they_run(
    plan: Any, in_8_bits: ResolvedModel, large_model: ResolvedModel, server: Machine
) -> None:
    made, plain = plan(in_8_bits, server), plan(large_model, server)
    assert made.placement == plain.placement
    assert made.memory.tier("gpu") == plain.memory.tier("gpu")
    assert made.placement.accelerator_layers == 32


def token_s(model: ResolvedModel, machine: Machine, **asked: Any) -> float:
    """Seconds of a token as an H200 and its wires are measured."""
    selector = BackendSelector(measure=lambda device: SPEEDS[device.kind])
    made = selector.select(model, RuntimeConfig("x", **asked), machine)
    assert made.is_executable()
    assert made.speed is not None
    return made.speed.seconds_per_token


def test_a_token_takes_half_the_time_over_the_wire(
    in_8_bits: ResolvedModel, large_model: ResolvedModel, server: Machine
) -> None:
    raw = token_s(large_model, server, **{**HOST, "dtype": "float16"})
    packed, stored = (token_s(model, server, **HOST) for model in (large_model, in_8_bits))
    assert stored < 0.52 * raw
    assert stored < 0.7 * packed


def test_layers_on_disk_are_read_as_they_are_stored(
    plan: Any, in_8_bits: ResolvedModel, server: Machine
) -> None:
    asked = {**HOST, "offload_gpu_layers": 4, "offload_cpu_layers": 4}
    made = plan(in_8_bits, server, **asked)
    assert in_8_bits.weights is not None
    stored = in_8_bits.weights.layer_bytes[0]
    assert made.memory.tier("disk").layers_bytes == 24 * stored
    assert made.streaming.staging_bytes == made.streaming.staging_slots * stored
    assert made.memory.tier("ram").staging_bytes == made.streaming.staging_bytes
    assert "Its fp8 weights are expanded to bfloat16 where they run." in made.details
    assert any("stay as they are stored, in 50% of the bytes" in each for each in made.details)
    assert not any("cache folder" in each for each in made.details)


def test_on_a_cpu_layers_in_memory_run_and_those_on_disk_are_expanded_when_they_come(
    plan: Any, in_8_bits: ResolvedModel, server: Machine
) -> None:
    made = plan(in_8_bits, server, device="cpu", dtype="bfloat16", offload_cpu_layers=10)
    sizes = sizes_of(in_8_bits)
    ram, disk = made.memory.tier("ram"), made.memory.tier("disk")
    assert ram.layers_bytes == 10 * sizes.layer_bytes[0]
    assert disk.layers_bytes == 22 * sizes.held_layers[0]
    slots = made.streaming.device_slots
    assert ram.ring_bytes == slots * sizes.held_layers[0] + sizes.layer_bytes[0]


def test_single_experts_move_and_are_cached_as_they_are_stored(
    plan: Any, experts_in_4_bits: ResolvedModel, expert_model: ResolvedModel, server: Machine
) -> None:
    sizes = sizes_of(experts_in_4_bits)
    made = plan(experts_in_4_bits, server, gpu_memory_budget="6GiB", dtype="bfloat16")
    plain = plan(expert_model, server, gpu_memory_budget="6GiB", dtype="bfloat16")
    held, raw = sizes.held_experts[0], sizes.expert_bytes[0]
    assert 0.26 < held / raw < 0.27
    streaming = made.streaming
    assert streaming.expert_streaming
    # All experts of a layer, and the chosen ones: as they come, and as they run.
    slots = streaming.expert_slots
    assert streaming.expert_room_bytes == raw + slots * (raw // 128) + slots * (held // 128)
    assert streaming.stored_slot_bytes == 0
    assert streaming.packed
    dense = sizes.layer_bytes[0] - raw
    layer = packed_bytes(dense) + held
    assert made.memory.tier("ram").layers_bytes == made.placement.host_layers * layer
    assert made.memory.tier("ram").experts_bytes == made.placement.host_layers * held
    # The cache holds nearly four times as many of them.
    share = streaming.expert_cache_bytes / held
    assert share > 3 * plain.streaming.expert_cache_bytes / raw
    asked = {"gpu_memory_budget": "6GiB", "dtype": "bfloat16"}
    assert token_s(experts_in_4_bits, server, **asked) < 0.5 * token_s(
        expert_model, server, **asked
    )


def test_a_budget_that_holds_a_model_only_as_it_is_stored_is_enough(
    plan: Any, in_8_bits: ResolvedModel, large_model: ResolvedModel, server: Machine
) -> None:
    asked = {"gpu_memory_budget": "6GiB", "cpu_memory_budget": "8GiB", "dtype": "bfloat16"}
    assert plan(in_8_bits, server, **asked).placement.disk_layers == 0
    assert plan(large_model, server, **asked).placement.disk_layers > 0
