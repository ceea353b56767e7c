from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.ids import OffloadPolicy
from ollm_widgets.planning.parts import packed_bytes
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.selector import BackendSelector

GIB = 1024**3
LAYER = 2 * 218_112_000
counts = st.none() | st.integers(0, 33)
gpu_lists = st.sampled_from([(6, 6), (10, 10), (4, 12), (24, 24), (6, 6, 6, 6), (2, 3, 5, 8)])


@pytest.fixture
def twins(make_machine: Callable[..., Machine]) -> Machine:
    """Two GPUs that hold less than half of the large model each."""
    return make_machine(ram_gib=128, gpu_gib=(6, 6))


def layers_of(plan: RuntimePlan, device: str) -> list[int]:
    return [index for index, name in enumerate(plan.placement.devices) if name == device]


def runs_of(plan: RuntimePlan) -> list[str]:
    return [name for name, _ in groupby(plan.placement.devices)]


def test_a_model_that_fits_on_the_roomiest_gpu_takes_no_other(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=128, gpu_gib=(10, 24)))
    assert made.devices == (made.device,) == ("cuda:1",)
    assert made.placement.devices == ()
    assert made.streaming.captured_steps
    assert [tier.title for tier in made.memory.tiers] == ["GPU (Test GPU)", "RAM"]
    assert plan(
        large_model, make_machine(ram_gib=128, gpu_gib=(10, 24)), device="cuda"
    ).devices == ("cuda:1",)


def test_layers_that_fit_on_several_stay_on_the_fewest_in_runs(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=128, gpu_gib=(10, 10, 10, 10)))
    assert made.is_executable()
    assert made.devices == ("cuda:0", "cuda:1")
    assert runs_of(made) == ["cuda:0", "cuda:1"]
    assert made.placement.accelerator_layers == 32
    assert made.streaming.device_slots == 0
    assert not made.streaming.captured_steps
    assert "full-residency" in made.specialization_pass_ids
    assert "captured-steps" not in made.specialization_pass_ids
    first, second = made.memory.gpus
    assert (first.title, second.title) == ("GPU 0 (Test GPU)", "GPU 1 (Test GPU)")
    assert made.memory.tier("gpu") == first
    assert second.embeddings_bytes == 0 < first.embeddings_bytes
    assert abs(first.needed_bytes - second.needed_bytes) <= LAYER + 8 * 1024**2
    assert first.kv_bytes + second.kv_bytes == made.kv.total_bytes
    assert "across cuda:0 (14 layers) and cuda:1 (18 layers)" in made.reason
    assert made.headline() == "Runs with optimized-native on cuda:0 and cuda:1"


def test_what_fits_nowhere_whole_streams_over_every_wire_in_turn(
    plan: Any, large_model: ResolvedModel, twins: Machine
) -> None:
    made = plan(large_model, twins)
    assert made.is_executable()
    assert made.devices == ("cuda:0", "cuda:1")
    streamed = [name for name, tier in zip(
        made.placement.devices, made.placement.tiers, strict=True
    ) if tier == "host"]  # fmt: skip
    assert len(streamed) == 22
    assert all(name != other for name, other in pairwise(streamed))
    assert made.streaming.packed
    assert made.streaming.device_slots == 4
    assert not made.streaming.captured_steps
    for tier in made.memory.gpus:
        assert tier.staging_bytes == made.streaming.device_bytes
        assert tier.needed_bytes <= tier.available_bytes
    ram = made.memory.tier("ram")
    assert ram.needed_bytes == 22 * packed_bytes(LAYER)
    assert "22 from RAM stream to them in turn" in made.reason
    assert "their copies run at the same time" in made.reason
    assert any("not captured" in detail for detail in made.details)


def test_equal_shares_are_said_in_one_word(
    plan: Any, expert_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(expert_model, make_machine(ram_gib=128, gpu_gib=(12, 12)))
    assert "across cuda:0 and cuda:1, 12 layers each, in bfloat16" in made.reason
    streaming = made.streaming
    assert streaming.expert_streaming
    assert streaming.expert_cache_bytes > 0
    for tier in made.memory.gpus:
        assert tier.staging_bytes <= streaming.device_bytes


def test_a_gpu_that_was_asked_for_by_number_is_alone(
    plan: Any, large_model: ResolvedModel, twins: Machine
) -> None:
    made = plan(large_model, twins, device="cuda:1")
    assert made.devices == ("cuda:1",)
    assert made.placement.devices == ()
    assert made.placement.host_layers > 22
    assert plan(large_model, twins, device="cuda").devices == ("cuda:0", "cuda:1")


def test_transformers_takes_one_gpu(plan: Any, large_model: ResolvedModel, twins: Machine) -> None:
    made = plan(large_model, twins, backend="transformers-generic")
    assert made.placement.devices == ()


def test_a_gpu_that_is_too_small_takes_no_part(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=128, gpu_gib=(6, 1, 6)))
    assert made.is_executable()
    assert made.devices == ("cuda:0", "cuda:2")
    alone = plan(large_model, make_machine(ram_gib=128, gpu_gib=(6, 1)))
    assert alone.is_executable()
    assert alone.devices == ("cuda:0",)
    assert alone.placement.devices == ()


def test_a_budget_is_for_each_gpu(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    roomy = make_machine(ram_gib=128, gpu_gib=(24, 24))
    assert plan(large_model, roomy).devices == ("cuda:0",)
    made = plan(large_model, roomy, gpu_memory_budget="10GiB")
    assert made.devices == ("cuda:0", "cuda:1")
    assert made.placement.accelerator_layers == 32
    assert all(tier.needed_bytes <= 10 * GIB for tier in made.memory.gpus)


def test_counts_are_totals_over_all_gpus(
    plan: Any, large_model: ResolvedModel, twins: Machine
) -> None:
    made = plan(
        large_model,
        twins,
        offload_gpu_layers=6,
        offload_cpu_layers=9,
        offload_cpu_policy="prefix",
    )
    assert made.is_executable()
    placement = made.placement
    assert (placement.accelerator_layers, placement.host_layers, placement.disk_layers) == (
        6, 9, 17,
    )  # fmt: skip
    assert placement.tiers[:9] == ("host",) * 9
    assert made.devices == ("cuda:0", "cuda:1")
    ram = made.memory.tier("ram")
    assert ram.staging_bytes == 2 * made.streaming.staging_slots * LAYER


def test_what_host_memory_cannot_hold_comes_from_disk_to_both(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    made = plan(large_model, make_machine(ram_gib=6, gpu_gib=(6, 6)))
    assert made.is_executable()
    tiers = made.placement.tiers
    for device in made.devices:
        assert {tiers[index] for index in layers_of(made, device)} >= {"host", "disk"}
    assert made.streaming.read_direct
    disk = made.memory.tier("disk")
    assert disk.layers_bytes == made.placement.disk_layers * LAYER


def test_a_cache_that_no_single_gpu_holds_is_spread_too(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(ram_gib=128, gpu_gib=(12, 12))
    made = plan(large_model, machine, context_tokens=80_000)
    assert made.is_executable()
    assert made.devices == ("cuda:0", "cuda:1")
    one = plan(large_model, make_machine(ram_gib=128, gpu_gib=(12,)), context_tokens=80_000)
    assert one.device == "cpu"


def test_layers_with_a_window_of_their_own_weigh_less(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    assert large_model.shape is not None
    types = ("sliding_attention", "full_attention") * 16
    mixed = replace(
        large_model, shape=replace(large_model.shape, layer_types=types, sliding_window=1024)
    )
    made = plan(mixed, make_machine(ram_gib=128, gpu_gib=(9, 9)), context_tokens=60_000)
    assert made.is_executable()
    per_token = 2 * 8 * 128 * 2
    for tier, device in zip(made.memory.gpus, made.devices, strict=True):
        kinds = [types[index] for index in layers_of(made, device)]
        tokens = sum(60_000 if kind == "full_attention" else 1024 for kind in kinds)
        assert tier.kv_bytes == per_token * tokens


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"offload_gpu_layers": 20},
            ("of GPU 0 (Test GPU)", "of 32 layers", "Set offload_gpu_layers="),
        ),
        (
            {"gpu_memory_budget": "2GiB", "device": "cuda"},
            ("2.0 GiB may be used", "Raise gpu_memory_budget to at least"),
        ),
        ({"context_tokens": 60_000, "device": "cuda"}, ("Plan for at most",)),
        ({"offload_gpu_layers": 30, "offload_cpu_layers": 3}, ("30 + 3 layers",)),
    ],
)
def test_what_cannot_be_had_names_the_gpu_that_is_short_and_a_way_out(
    plan: Any,
    large_model: ResolvedModel,
    twins: Machine,
    config: dict[str, Any],
    words: tuple[str, ...],
) -> None:
    made = plan(large_model, twins, **config)
    assert not made.is_executable()
    for each in words:
        assert each in made.reason


def test_the_way_out_leads_out(plan: Any, large_model: ResolvedModel, twins: Machine) -> None:
    refused = plan(large_model, twins, offload_gpu_layers=20)
    found = re.search(r"Set offload_gpu_layers=(\d+), or leave it empty", refused.reason)
    assert found is not None
    assert 0 < int(found[1]) < 20
    assert plan(large_model, twins, offload_gpu_layers=int(found[1])).is_executable()
    refused = plan(large_model, twins, context_tokens=60_000, device="cuda")
    found = re.search(r"Plan for at most ([\d,]+) context tokens", refused.reason)
    assert found is not None
    fewer = int(found[1].replace(",", ""))
    assert plan(large_model, twins, context_tokens=fewer, device="cuda").is_executable()


def test_the_fullest_wire_decides_how_fast_a_token_comes(
    large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    known = Bandwidth(4e12, 1e15, host_to_device_bytes_per_s=54e9, disk_bytes_per_s=1.5e9)
    selector = BackendSelector(measure=lambda device: known)

    def seconds(gpus: tuple[float, ...], **config: Any) -> float:
        made = selector.select(
            large_model,
            RuntimeConfig("x", gpu_memory_budget="6GiB", **config),
            make_machine(ram_gib=128, gpu_gib=gpus),
        )
        assert made.speed is not None
        return made.speed.seconds_per_token

    asked = {"offload_gpu_layers": 0, "offload_cpu_layers": 32}
    each = packed_bytes(LAYER) / 54e9
    assert seconds((24,), **asked) == pytest.approx(32 * each)
    assert seconds((24, 24), **asked) == pytest.approx(16 * each)
    assert seconds((24, 24, 24, 24), **asked) == pytest.approx(8 * each)
    # The disk is one, whatever computes.
    asked = {"offload_gpu_layers": 0, "offload_cpu_layers": 0}
    assert seconds((24, 24), **asked) == pytest.approx(32 * LAYER / 1.5e9)


@settings(deadline=None)
@given(
    gpus=gpu_lists, ram=st.sampled_from([4, 12, 128]), gpu=counts, cpu=counts,
    gpu_budget=st.sampled_from([None, "2GiB", "6GiB", "11GiB"]),
    policy=st.sampled_from(["auto", "prefix", "suffix", "middle-band"]),
    context=st.sampled_from([None, 512, 40_000]),
    device=st.sampled_from(["auto", "cuda"]), which=st.sampled_from(["dense", "experts"]),
)  # fmt: skip
def test_any_wish_on_several_gpus_is_obeyed_exactly_or_refused(
    plan: Any,
    large_model: ResolvedModel,
    expert_model: ResolvedModel,
    make_machine: Callable[..., Machine],
    gpus: tuple[float, ...],
    ram: int,
    gpu: int | None,
    cpu: int | None,
    gpu_budget: str | None,
    policy: OffloadPolicy,
    context: int | None,
    device: str,
    which: str,
) -> None:
    resolved = large_model if which == "dense" else expert_model
    made: RuntimePlan = plan(
        resolved,
        make_machine(ram_gib=ram, gpu_gib=gpus),
        offload_gpu_layers=gpu,
        offload_cpu_layers=cpu,
        gpu_memory_budget=gpu_budget,
        offload_cpu_policy=policy,
        context_tokens=context,
        device=device,
    )
    assert json.loads(json.dumps(made.as_dict(), allow_nan=False))["placement"]
    assert made.to_html()
    tiers, devices = made.placement.tiers, made.placement.devices
    total = 32 if which == "dense" else 24
    assert len(tiers) == total
    if devices:
        assert len(devices) == total
        assert len(made.devices) >= 2
        assert made.device == made.devices[0]
        assert not made.streaming.captured_steps
        of_gpus = [f"GPU {name.removeprefix('cuda:')} (Test GPU)" for name in made.devices]
        assert [tier.title for tier in made.memory.gpus] == of_gpus
        assert sum(tier.layer_count for tier in made.memory.gpus) == tiers.count("accelerator")
        assert sum(tier.kv_bytes for tier in made.memory.gpus) == made.kv.total_bytes
        if set(tiers) == {"accelerator"}:
            assert runs_of(made) == list(dict.fromkeys(devices))
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


@given(
    ram=st.sampled_from([4, 12, 128]), size=st.sampled_from([2, 6, 12, 24]), gpu=counts,
    cpu=counts, budget=st.sampled_from([None, "6GiB"]),
)  # fmt: skip
def test_a_second_gpu_changes_nothing_where_the_first_was_asked_for(
    plan: Any,
    large_model: ResolvedModel,
    make_machine: Callable[..., Machine],
    ram: int,
    size: int,
    gpu: int | None,
    cpu: int | None,
    budget: str | None,
) -> None:
    config = {
        "device": "cuda:0",
        "offload_gpu_layers": gpu,
        "offload_cpu_layers": cpu,
        "gpu_memory_budget": budget,
    }
    one = plan(large_model, make_machine(ram_gib=ram, gpu_gib=(size,)), **config)
    two = plan(large_model, make_machine(ram_gib=ram, gpu_gib=(size, size)), **config)
    for name in ("placement", "streaming", "reason", "details", "kv", "speed"):
        assert getattr(one, name) == getattr(two, name)
    # What is free on a disk changes between two looks at it.
    assert [tier for tier in one.memory.tiers if tier.place != "disk"] == [
        tier for tier in two.memory.tiers if tier.place != "disk"
    ]
