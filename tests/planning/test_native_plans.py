from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.planning.ids import OffloadPolicy
from ollm_widgets.planning.parts import packed_bytes
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.selector import BackendSelector

GIB = 1024**3
LAYER = 2 * 218_112_000  # of the model shaped like Llama-3.1-8B, in bfloat16
counts = st.none() | st.integers(0, 40)
budgets = st.none() | st.sampled_from(["300MiB", "1GiB", "3GiB", "4GiB", "6GiB", "12GiB", "40GiB"])


def test_a_model_that_fits_the_accelerator_stays_there(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(large_model, server)
    assert (made.backend_id, made.device, made.support_level) == (
        "optimized-native",
        "cuda:0",
        "optimized",
    )
    assert made.placement.accelerator_layers == 32
    assert made.streaming.device_slots == 0
    assert made.streaming.captured_steps
    assert made.specialization_state == "planned"
    assert made.specialization_provider_id == "ollm-native"
    assert made.specialization_pass_ids[0] == "full-residency"
    assert made.speed is not None


def test_a_model_larger_than_the_accelerator_streams_packed_from_host_memory(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(large_model, server, gpu_memory_budget="6GiB", offload_gpu_layers=0)
    assert made.is_executable()
    assert made.device == "cuda:0"
    assert made.placement.host_layers == 32
    streaming = made.streaming
    assert (streaming.device_slots, streaming.slot_bytes, streaming.packed) == (4, LAYER, True)
    assert streaming.staging_slots == 0
    assert streaming.captured_steps
    gpu, ram = made.memory.tier("gpu"), made.memory.tier("ram")
    assert gpu.staging_bytes == 4 * packed_bytes(LAYER) + LAYER
    assert gpu.needed_bytes <= 6 * GIB
    assert ram.needed_bytes == ram.layers_bytes == 32 * packed_bytes(LAYER)
    assert "32 from RAM stream through it in each pass" in made.reason
    assert any("packed without loss to 75%" in detail for detail in made.details)
    assert "lossless-packing" in made.specialization_pass_ids
    assert made.speed is None
    assert any("bandwidth of the wire to the accelerator is not known" in d for d in made.details)


def test_what_host_memory_cannot_hold_comes_from_disk(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(large_model, server, gpu_memory_budget="6GiB", cpu_memory_budget="4GiB")
    assert made.is_executable()
    assert min(made.placement.host_layers, made.placement.disk_layers) > 0
    ram, disk = made.memory.tier("ram"), made.memory.tier("disk")
    assert ram.staging_bytes == made.streaming.staging_slots * LAYER > 0
    assert ram.needed_bytes <= 4 * GIB
    assert disk.layers_bytes == made.placement.disk_layers * LAYER
    assert not made.streaming.captured_steps
    assert not made.streaming.read_direct  # the page cache of 128 GiB holds them
    assert {"cpu-offload", "disk-cache"} <= set(made.specialization_pass_ids)
    assert "captured-steps" not in made.specialization_pass_ids


def test_a_checkpoint_that_the_page_cache_cannot_hold_is_read_past_it(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=8))
    assert made.is_executable()
    assert (made.device, made.dtype) == ("cpu", "bfloat16")
    assert made.streaming.read_direct
    assert any("read past it" in detail for detail in made.details)


def test_the_layers_that_are_asked_for_are_obeyed_exactly(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(
        large_model,
        server,
        offload_gpu_layers=4,
        offload_cpu_layers=8,
        offload_cpu_policy="prefix",
    )
    assert made.placement.tiers == ("host",) * 8 + ("accelerator",) * 4 + ("disk",) * 20
    half = plan(large_model, server, offload_gpu_layers=16)
    assert (half.placement.accelerator_layers, half.placement.host_layers) == (16, 16)
    beside = plan(large_model, server, offload_cpu_layers=8)
    assert (beside.placement.accelerator_layers, beside.placement.host_layers) == (24, 8)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"offload_gpu_layers": 16, "gpu_memory_budget": "6GiB"},
            ("16 of 32 layers 6.5 GiB", "6.0 GiB may be used", "Set offload_gpu_layers="),
        ),
        (
            {"offload_gpu_layers": 0, "offload_cpu_layers": 32, "cpu_memory_budget": "8GiB"},
            ("9.8 GiB of RAM", "8.0 GiB may be used", "Set offload_cpu_layers="),
        ),
        ({"offload_gpu_layers": 30, "offload_cpu_layers": 3}, ("30 + 3 layers",)),
        ({"device": "cpu", "offload_gpu_layers": 1}, ("this plan runs on the CPU",)),
        (
            {"device": "cuda", "gpu_memory_budget": "2GiB"},
            ("2.0 GiB may be used", "Raise gpu_memory_budget to at least"),
        ),
        (
            {"offload_gpu_layers": 0, "offload_cpu_layers": 0, "cpu_memory_budget": "500MiB"},
            ("buffers for 2 layers on the way 832 MiB", "Raise cpu_memory_budget"),
        ),
    ],
)
def test_what_cannot_be_placed_as_asked_is_refused_with_numbers_and_a_way_out(
    plan: Any,
    large_model: ResolvedModel,
    server: Machine,
    config: dict[str, Any],
    words: tuple[str, ...],
) -> None:
    made = plan(large_model, server, **config)
    assert not made.is_executable()
    assert made.backend_id == "optimized-native"
    for each in words:
        assert each in made.reason


@pytest.mark.parametrize(
    "config",
    [
        {"offload_gpu_layers": 16, "gpu_memory_budget": "6GiB"},
        {"offload_gpu_layers": 0, "offload_cpu_layers": 32, "cpu_memory_budget": "8GiB"},
        {"offload_cpu_layers": 32, "cpu_memory_budget": "8GiB", "device": "cpu"},
    ],
)
def test_the_way_out_leads_out(
    plan: Any, large_model: ResolvedModel, server: Machine, config: dict[str, Any]
) -> None:
    refused = plan(large_model, server, **config)
    assert not refused.is_executable()
    found = re.search(r"Set (\w+)=(\d+), or leave it empty", refused.reason)
    assert found is not None
    name, count = found[1], int(found[2])
    assert 0 < count < config[name]
    assert plan(large_model, server, **{**config, name: count}).is_executable()
    assert plan(large_model, server, **{**config, name: None}).is_executable()


def test_six_gigabytes_run_within_one(
    plan: Any, six_gigabytes: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(ram_gib=24)
    made = plan(six_gigabytes, machine, cpu_memory_budget="1GiB", context_tokens=512)
    assert made.is_executable()
    assert (made.device, made.dtype) == ("cpu", "bfloat16")
    ram = made.memory.tier("ram")
    assert ram.needed_bytes <= GIB
    assert ram.staging_bytes == 2 * made.streaming.slot_bytes == 4 * 100_669_440
    assert made.placement.disk_layers >= 27
    assert made.specialization_pass_ids == ("disk-cache",)
    assert made.speed is None
    assert any("bandwidth of the disk is not known" in detail for detail in made.details)

    too_long = plan(six_gigabytes, machine, cpu_memory_budget="1GiB", kv_cache_strategy="resident")
    assert not too_long.is_executable()
    for part in ("buffers for 2 layers", "the KV cache of 4,096 tokens 448 MiB", "are missing"):
        assert part in too_long.reason


def test_on_a_cpu_the_layers_asked_for_stay_in_memory_and_the_rest_streams(
    plan: Any, six_gigabytes: ResolvedModel, laptop: Machine
) -> None:
    made = plan(six_gigabytes, laptop, offload_cpu_layers=10, dtype="bfloat16")
    assert made.is_executable()
    assert (made.placement.host_layers, made.placement.disk_layers) == (10, 18)
    assert made.streaming.device_slots == 3
    assert made.streaming.staging_slots == 0


def test_disk_is_counted_as_stored_and_memory_as_it_runs(
    plan: Any, six_gigabytes: ResolvedModel, laptop: Machine
) -> None:
    made = plan(six_gigabytes, laptop, offload_cpu_layers=10, dtype="float32")
    assert made.memory.tier("disk").layers_bytes == 18 * 2 * 100_669_440
    assert made.memory.tier("ram").layers_bytes == 10 * 4 * 100_669_440


def test_a_mixture_of_experts_streams_its_experts_and_keeps_the_hot_ones(
    plan: Any, expert_model: ResolvedModel, server: Machine
) -> None:
    assert expert_model.weights is not None
    made = plan(expert_model, server, gpu_memory_budget="6GiB")
    assert made.is_executable()
    streaming = made.streaming
    assert streaming.expert_streaming
    assert "moe-routing" in made.specialization_pass_ids
    gpu = made.memory.tier("gpu")
    assert streaming.slot_bytes < 0.05 * expert_model.weights.layer_bytes[0]
    assert streaming.expert_slots == 16
    assert streaming.expert_cache_bytes > 0
    assert gpu.needed_bytes <= 6 * GIB
    assert gpu.staging_bytes == streaming.device_bytes
    assert streaming.device_bytes > streaming.expert_room_bytes + streaming.expert_cache_bytes
    whole = plan(expert_model, server)
    assert not whole.streaming.expert_streaming
    assert "moe-routing" not in whole.specialization_pass_ids


def test_a_mixture_whose_experts_are_not_surely_stacked_streams_whole_layers(
    plan: Any, expert_model: ResolvedModel, server: Machine
) -> None:
    assert expert_model.weights is not None
    made = plan(replace(expert_model, model_type="llama4"), server, gpu_memory_budget="8GiB")
    assert made.is_executable()
    assert not made.streaming.expert_streaming
    assert made.streaming.slot_bytes == expert_model.weights.layer_bytes[0]
    assert "moe-routing" not in made.specialization_pass_ids


def test_a_quantized_checkpoint_that_only_transformers_expands_counts_as_expanded(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    assert large_model.weights is not None
    # Nothing says that its tensors have scales that they move with.
    halved = tuple(size // 2 for size in large_model.weights.layer_bytes)
    weights = replace(large_model.weights, dtype="float8_e4m3fn", layer_bytes=halved)
    stored = replace(large_model, weights=weights, quantization=Quantization("fp8"))
    asked = {"gpu_memory_budget": "6GiB", "offload_cpu_layers": 4, "offload_gpu_layers": 4}
    made, plain = plan(stored, server, **asked), plan(large_model, server, **asked)
    assert made.backend_id == "optimized-native"
    assert (made.placement, made.streaming) == (plain.placement, plain.streaming)
    # The disk is left out: others write to it between the two plans.
    memory, of_plain = (
        [tier for tier in each.memory.tiers if tier.place != "disk"] for each in (made, plain)
    )
    assert memory == of_plain
    assert "Its fp8 weights are expanded to bfloat16 when loaded." in made.details
    assert any("in the cache folder" in detail for detail in made.details)
    assert not any("expanded" in detail for detail in plain.details)


def test_float16_layers_are_not_packed(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(large_model, server, gpu_memory_budget="6GiB", dtype="float16")
    assert made.is_executable()
    assert not made.streaming.packed
    assert made.memory.tier("ram").layers_bytes == made.placement.host_layers * LAYER


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"device": "cuda"}, 7680),
        ({"device": "cuda", "context_tokens": 32_768}, 32_768),
        ({"device": "cuda", "context_tokens": 32_768, "gpu_memory_budget": "22GiB"}, 7680),
        ({"device": "cpu", "context_tokens": 2048}, None),
        ({"device": "cpu", "context_tokens": 2049}, 1024),
        ({"device": "cuda", "dense_projection_chunk_rows": 64}, 64),
        ({"device": "cpu", "dense_projection_chunk_rows": 1}, 1),
    ],
)
def test_prompts_pass_in_chunks_of(
    plan: Any,
    large_model: ResolvedModel,
    server: Machine,
    config: dict[str, Any],
    tokens: int | None,
) -> None:
    made = plan(large_model, server, **config)
    assert made.streaming.prefill_chunk_tokens == tokens
    assert ("mlp-chunking" in made.specialization_pass_ids) == (tokens is not None)


def test_shorter_chunks_make_room_for_a_long_context(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    options = {"gpu_memory_budget": "8GiB", "context_tokens": 32_768}
    made = plan(large_model, server, **options)
    assert made.is_executable()
    assert made.device == "cuda:0"
    assert made.streaming.prefill_chunk_tokens < 7680
    asked = plan(
        large_model,
        server,
        dense_projection_chunk_rows=7680,
        device="cuda",
        kv_cache_strategy="resident",
        **options,
    )
    assert not asked.is_executable()


def test_an_image_model_runs_its_text_part_with_the_native_backend_only(
    plan: Any, model: ResolvedModel
) -> None:
    profile = replace(model.capabilities, modalities=("text", "image"))
    images = replace(model, generic_model_kind="image-text-to-text", capabilities=profile)
    made = plan(images)
    assert made.is_executable()
    assert made.backend_id == "optimized-native"
    assert "multimodal-shell" in made.specialization_pass_ids
    generic = plan(images, backend="transformers-generic")
    assert "runs models of kind causal-lm; this one is image-text-to-text" in generic.reason


def test_a_metal_device_that_holds_the_model_runs_it_with_transformers(
    plan: Any, model: ResolvedModel, large_model: ResolvedModel, laptop: Machine
) -> None:
    metal = Device("mps", "mps", "Apple GPU", 8 * GIB, 8 * GIB, True)
    mac = replace(laptop, accelerators=(metal,))
    made = plan(model, mac)
    assert (made.backend_id, made.device) == ("transformers-generic", "mps")
    assert any("does not compute on Apple GPU" in detail for detail in made.details)
    small = replace(mac, cpu=replace(mac.cpu, total_bytes=8 * GIB, free_bytes=8 * GIB))
    larger = plan(large_model, small)
    assert (larger.backend_id, larger.device) == ("optimized-native", "cpu")
    assert larger.placement.disk_layers > 0


def test_speed_follows_from_the_slowest_wire_where_all_are_known(
    large_model: ResolvedModel, server: Machine
) -> None:
    known = Bandwidth(4e12, 1e15, host_to_device_bytes_per_s=54e9, disk_bytes_per_s=1.5e9)
    selector = BackendSelector(measure=lambda device: known)

    def planned(**config: Any) -> RuntimePlan:
        return selector.select(large_model, RuntimeConfig("x", **config), server)

    packed = planned(offload_gpu_layers=0, offload_cpu_layers=32)
    assert packed.speed is not None
    assert packed.speed.seconds_per_token == pytest.approx(32 * LAYER * 0.7515 / 54e9)
    assert "cross the wire to the accelerator" in packed.speed.why
    from_disk = planned(offload_gpu_layers=0, offload_cpu_layers=0)
    assert from_disk.speed is not None
    assert from_disk.speed.seconds_per_token == pytest.approx(32 * LAYER / 1.5e9)
    kept = planned(offload_gpu_layers=32)
    assert kept.speed is not None
    assert kept.speed.seconds_per_token < 0.01


@given(
    gpu=counts, cpu=counts, gpu_budget=budgets, cpu_budget=budgets, policy=st.sampled_from(
        ["auto", "prefix", "suffix", "middle-band"]
    ),
    device=st.sampled_from(["auto", "cpu", "cuda"]), which=st.sampled_from(["dense", "experts"]),
)  # fmt: skip
def test_any_wish_is_obeyed_exactly_or_refused(
    plan: Any,
    large_model: ResolvedModel,
    expert_model: ResolvedModel,
    server: Machine,
    gpu: int | None,
    cpu: int | None,
    gpu_budget: str | None,
    cpu_budget: str | None,
    policy: OffloadPolicy,
    device: str,
    which: str,
) -> None:
    resolved = large_model if which == "dense" else expert_model
    made: RuntimePlan = plan(
        resolved,
        server,
        offload_gpu_layers=gpu,
        offload_cpu_layers=cpu,
        gpu_memory_budget=gpu_budget,
        cpu_memory_budget=cpu_budget,
        offload_cpu_policy=policy,
        device=device,
    )
    assert json.loads(json.dumps(made.as_dict(), allow_nan=False))["streaming"]
    assert len(made.placement.tiers) == (32 if which == "dense" else 24)
    assert made.to_html()
    if not made.is_executable():
        assert any(character.isdigit() for character in made.reason)
        return
    for tier in made.memory.tiers:
        assert tier.needed_bytes <= tier.available_bytes
    if gpu is not None:
        assert made.placement.accelerator_layers == gpu
    if cpu is not None:
        assert made.placement.host_layers == cpu
    streams = "full-residency" not in made.specialization_pass_ids
    assert streams == (made.streaming.device_slots > 0)
