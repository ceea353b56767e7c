from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.ids import DeviceKind, LayerTier
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.step import StepWork, seconds_of, step_seconds
from ollm_widgets.planning.speed.work import step_work, streamed_bytes
from ollm_widgets.planning.weights import WeightSizes

MIB = 1024**2
rates = st.floats(1e6, 1e13)
times = st.none() | st.floats(1e-8, 1e-3)
bandwidths = st.builds(
    Bandwidth,
    read_bytes_per_s=rates,
    flops_per_s=rates,
    host_to_device_bytes_per_s=st.none() | rates,
    disk_bytes_per_s=st.none() | rates,
    page_cache_bytes_per_s=st.none() | rates,
    unpack_bytes_per_s=st.none() | rates,
    launch_s=times,
    replay_s=times,
)
works = st.builds(
    StepWork,
    **{each.name: st.integers(0, 10**12) for each in fields(StepWork) if each.name != "on_cores"},
    on_cores=st.booleans(),
)


@st.composite
def weights(draw: Any) -> WeightSizes:
    """Layers of different sizes; of a mixture some are dense."""
    dense = draw(st.lists(st.integers(1, 900), min_size=1, max_size=12))
    active = draw(st.none() | st.integers(1, 8))
    experts = [draw(st.integers(0, 900)) if active else 0 for _ in dense]
    layers = tuple((a + b) * MIB for a, b in zip(dense, experts, strict=True))
    stored = draw(st.sampled_from([0.5, 1.0, 2.0]))
    return WeightSizes(
        layer_bytes=layers,
        embeddings_bytes=64 * MIB,
        read_per_token_bytes=sum(layers) // 2,
        parameters_per_token=sum(layers) // 4,
        stored_layer_bytes=tuple(round(size * stored) for size in layers),
        expert_bytes=tuple(size * MIB for size in experts) if active else (),
        experts=8 if active else 0,
        active_experts=active or 0,
    )


@st.composite
def runs(draw: Any, sizes: WeightSizes) -> PlannedRun:
    kind: DeviceKind = draw(st.sampled_from(["cpu", "cuda"]))
    tiers = ["accelerator", "host", "disk"] if kind == "cuda" else ["host", "disk"]
    layers = len(sizes.layer_bytes)
    placed = draw(st.lists(st.sampled_from(tiers), min_size=layers, max_size=layers))
    devices = draw(
        st.lists(st.sampled_from(["cuda:0", "cuda:1"]), min_size=layers, max_size=layers)
    )
    streaming = StreamingPlan(
        packed=kind == "cuda" and draw(st.booleans()),
        expert_streaming=draw(st.booleans()),
        expert_cache_bytes=draw(st.integers(0, 4000)) * MIB,
    )
    across = tuple(devices) if kind == "cuda" and draw(st.booleans()) else ()
    return PlannedRun(kind, LayerPlacement(tuple(placed), across), streaming)


def slower(tier: LayerTier, kind: DeviceKind) -> LayerTier:
    """The next slower tier; the disk has none."""
    return "host" if tier == "accelerator" and kind != "cpu" else "disk"


@given(st.data(), weights(), bandwidths, st.booleans())
def test_a_layer_moved_to_a_slower_tier_never_lowers_any_part_of_a_pass(
    data: st.DataObject, sizes: WeightSizes, speeds: Bandwidth, page_cached: bool
) -> None:
    run = data.draw(runs(sizes))
    index = data.draw(st.integers(0, len(run.placement.tiers) - 1))
    tiers = list(run.placement.tiers)
    tiers[index] = slower(tiers[index], run.device_kind)
    moved = replace(run, placement=replace(run.placement, tiers=tuple(tiers)))
    before = asdict(step_work(sizes, run, page_cached=page_cached))
    after = asdict(step_work(sizes, moved, page_cached=page_cached))
    assert all(after[name] >= before[name] for name in before)
    assert step_seconds(StepWork(**after), speeds) >= step_seconds(StepWork(**before), speeds)


@given(works, works, bandwidths)
def test_more_work_never_takes_less_time(one: StepWork, other: StepWork, speeds: Bandwidth) -> None:
    more = StepWork(
        **{
            each.name: max(getattr(one, each.name), getattr(other, each.name))
            for each in fields(StepWork)
            if each.name != "on_cores"
        },
        on_cores=one.on_cores,
    )
    assert step_seconds(more, speeds) >= step_seconds(one, speeds)


@given(weights(), st.data(), st.integers(0, 10**9))
def test_more_history_never_makes_a_pass_do_less(
    sizes: WeightSizes, data: st.DataObject, more: int
) -> None:
    run = data.draw(runs(sizes))
    short, long = step_work(sizes, run), step_work(sizes, run, history_bytes=more)
    assert long.read_bytes - short.read_bytes == more
    cold = step_work(sizes, run, cold_kv_wire_bytes=more, cold_kv_disk_bytes=more)
    assert cold.awaited_bytes - short.awaited_bytes == more
    assert cold.wire_bytes - short.wire_bytes == more
    assert cold.disk_bytes - short.disk_bytes == more


def test_a_streamed_layer_crosses_the_wire_while_the_others_compute(
    llama: Any, running: Any
) -> None:
    layer = llama.sizes.layer_bytes[0]
    work = step_work(llama.sizes, running(accelerator=30, host=2, captured_steps=True))
    assert work.wire_bytes == 2 * layer
    assert (work.awaited_bytes, work.disk_bytes, work.page_cache_bytes) == (0, 0, 0)
    speeds = Bandwidth(1e12, 1e15, host_to_device_bytes_per_s=1e9)
    parts = seconds_of(work, speeds)
    assert parts.total == parts.wire == 2 * layer / 1e9
    assert parts.computing > llama.sizes.read_per_token_bytes / 1e12


def test_packed_layers_cross_smaller_and_are_decoded(llama: Any, running: Any) -> None:
    layers = llama.sizes.layers_bytes
    raw = step_work(llama.sizes, running(host=32))
    packed = step_work(llama.sizes, running(host=32, packed=True))
    assert packed.wire_bytes < 0.76 * raw.wire_bytes
    assert (raw.unpacked_bytes, packed.unpacked_bytes) == (0, layers)


def test_experts_come_when_they_are_chosen_and_no_cache_holds_them(
    mixture: Any, running: Any
) -> None:
    sizes = mixture.sizes
    dense, experts = sum(sizes.dense_bytes), sum(sizes.expert_bytes)

    def moved(cached: float) -> int:
        run = running(host=24, expert_streaming=True, expert_cache_bytes=round(cached * experts))
        work = step_work(sizes, run)
        assert work.wire_bytes - work.awaited_bytes == dense
        return work.awaited_bytes

    assert moved(0) * 16 == experts  # 8 of 128
    assert abs(moved(0.25) - 0.75 * moved(0)) < 24
    assert moved(1) == 0
    whole = streamed_bytes(sizes, running(host=24, expert_streaming=True), whole_experts=True)
    assert (whole.to_device, whole.awaited) == (dense + experts, 0)


def test_layers_on_disk_come_from_the_page_cache_where_it_holds_them(
    llama: Any, running: Any
) -> None:
    run = running("cpu", host=20, disk=12)
    from_disk = step_work(llama.sizes, run)
    cached = step_work(llama.sizes, run, page_cached=True)
    assert from_disk.disk_bytes == cached.page_cache_bytes == 12 * llama.sizes.layer_bytes[0]
    assert from_disk.page_cache_bytes == cached.disk_bytes == from_disk.wire_bytes == 0


def test_cores_that_copy_do_not_compute_meanwhile(llama: Any, running: Any) -> None:
    speeds = Bandwidth(
        20e9, 1e11, disk_bytes_per_s=10e9, page_cache_bytes_per_s=10e9, launch_s=1e-6
    )
    run = running("cpu", disk=32)
    copied = step_seconds(step_work(llama.sizes, run, page_cached=True), speeds)
    computed = step_seconds(step_work(llama.sizes, running("cpu", host=32)), speeds)
    copies = llama.sizes.layers_bytes / 10e9
    assert abs(copied - (computed + copies)) < 1e-9
    # A disk delivers by itself.
    assert step_seconds(step_work(llama.sizes, run), speeds) == max(computed, copies)


def test_of_several_wires_the_fullest_counts(llama: Any) -> None:
    tiers: tuple[LayerTier, ...] = ("host",) * 32
    devices = ("cuda:0",) * 20 + ("cuda:1",) * 12
    run = PlannedRun("cuda", LayerPlacement(tiers, devices), StreamingPlan())
    assert step_work(llama.sizes, run).wire_bytes == 20 * llama.sizes.layer_bytes[0]
