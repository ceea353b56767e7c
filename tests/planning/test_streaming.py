from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ollm_widgets.planning.ids import DeviceKind, DType, OffloadPolicy
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan, packed_bytes
from ollm_widgets.planning.streaming import Counts, Layouts, Room, least_layers_bytes
from ollm_widgets.planning.weights import WeightSizes

MIB = 1024**2
layer_lists = st.lists(st.integers(1, 400 * MIB), min_size=1, max_size=60).map(tuple)
uniform = st.builds(lambda size, n: (size,) * n, st.integers(1, 400 * MIB), st.integers(1, 60))
rooms = st.integers(0, 40 * 1024 * MIB)
kinds = st.sampled_from(["cpu", "cuda"])
dtypes = st.sampled_from(get_args(DType))
policies = st.sampled_from(get_args(OffloadPolicy))


def sizes_of(layers: tuple[int, ...], expert_share: float = 0.0) -> WeightSizes:
    return WeightSizes(
        layer_bytes=layers,
        embeddings_bytes=0,
        read_per_token_bytes=sum(layers),
        parameters_per_token=sum(layers),
        stored_layer_bytes=layers,
        expert_bytes=tuple(int(size * expert_share) for size in layers) if expert_share else (),
        experts=10 if expert_share else 0,
        active_experts=1 if expert_share else 0,
    )


def lay_out(
    sizes: WeightSizes, dtype: DType, kind: DeviceKind, room: Room, counts: Counts
) -> tuple[LayerPlacement, StreamingPlan]:
    """Place the layers by nominal speeds."""
    return Layouts(sizes, dtype, kind, lambda from_disk: None).best(room, counts)


def held(
    sizes: WeightSizes, placement: LayerPlacement, streaming: StreamingPlan, kind: DeviceKind
) -> tuple[int, int]:
    """Bytes of layers and buffers on the device, and in host memory beside an accelerator."""
    own = "host" if kind == "cpu" else "accelerator"
    pairs = zip(placement.tiers, sizes.layer_bytes, strict=True)
    device = sum(size for tier, size in pairs if tier == own) + streaming.device_bytes
    if kind == "cpu":
        return device, 0
    beside = zip(placement.tiers, sizes.host_layer_bytes(packed=streaming.packed), strict=True)
    host = sum(size for tier, size in beside if tier == "host")
    return device, host + streaming.staging_bytes


@given(layer_lists | uniform, kinds, dtypes, rooms, rooms, policies, st.sampled_from([0.0, 0.9]))
def test_what_the_planner_decides_fits_whenever_the_least_buffers_do(
    layers: tuple[int, ...],
    kind: DeviceKind,
    dtype: DType,
    device_room: int,
    host_room: int,
    policy: OffloadPolicy,
    expert_share: float,
) -> None:
    sizes = sizes_of(layers, expert_share)
    room = Room(device_room, host_room)
    placement, streaming = lay_out(sizes, dtype, kind, room, Counts(None, None, policy))
    device, host = held(sizes, placement, streaming, kind)
    assert len(placement.tiers) == len(layers)
    if least_layers_bytes(sizes) <= device_room:
        assert device <= device_room
    if kind == "cpu":
        assert placement.accelerator_layers == 0
    if 2 * max(layers) <= host_room:
        assert host <= host_room


@given(layer_lists | uniform, kinds, dtypes, rooms, rooms, policies, st.data())
def test_counts_that_were_asked_for_are_obeyed_exactly(
    layers: tuple[int, ...],
    kind: DeviceKind,
    dtype: DType,
    device_room: int,
    host_room: int,
    policy: OffloadPolicy,
    data: st.DataObject,
) -> None:
    gpu = None if kind == "cpu" else data.draw(st.none() | st.integers(0, len(layers)))
    cpu = data.draw(st.none() | st.integers(0, len(layers) - (gpu or 0)))
    room = Room(device_room, host_room)
    placement, streaming = lay_out(sizes_of(layers), dtype, kind, room, Counts(gpu, cpu, policy))
    if gpu is not None:
        assert placement.accelerator_layers == gpu
    if cpu is not None:
        assert placement.host_layers == cpu
    streamed = placement.disk_layers + (0 if kind == "cpu" else placement.host_layers)
    assert streaming.device_slots <= streamed
    assert streaming.device_slots >= min(2, streamed)
    assert streaming.staging_slots <= placement.disk_layers


@given(layer_lists | uniform, kinds, dtypes, rooms, rooms)
def test_the_buffers_are_those_of_the_layers_that_stream(
    layers: tuple[int, ...], kind: DeviceKind, dtype: DType, device_room: int, host_room: int
) -> None:
    placement, streaming = lay_out(
        sizes_of(layers), dtype, kind, Room(device_room, host_room), Counts(None, None)
    )
    own = "host" if kind == "cpu" else "accelerator"
    pairs = zip(placement.tiers, layers, strict=True)
    streamed = [size for tier, size in pairs if tier != own]
    assert streaming.slot_bytes == max(streamed, default=0)
    assert (streaming.device_slots > 0) == bool(streamed)
    assert streaming.device_slots <= (3 if kind == "cpu" else 6)
    from_disk_to_accelerator = kind == "cuda" and placement.disk_layers > 0
    assert (streaming.staging_slots > 0) == from_disk_to_accelerator
    if streaming.packed:
        assert (kind, dtype) == ("cuda", "bfloat16")
        assert placement.host_layers
    assert not streaming.expert_streaming
    assert streaming.expert_cache_bytes == 0


@given(uniform, rooms, rooms)
def test_no_layer_is_read_from_disk_while_host_memory_has_room_for_it(
    layers: tuple[int, ...], device_room: int, host_room: int
) -> None:
    placement, streaming = lay_out(
        sizes_of(layers), "bfloat16", "cuda", Room(device_room, host_room), Counts(None, None)
    )
    assume(placement.disk_layers)
    each = packed_bytes(layers[0]) if streaming.packed else layers[0]
    used = placement.host_layers * each + streaming.staging_bytes
    assert used + each + layers[0] > host_room


def cuda(
    layers: int, device: float, host: float = 1000, gpu: int | None = None, cpu: int | None = None
) -> tuple[LayerPlacement, StreamingPlan]:
    """Layers of 100 MiB; rooms in layers."""
    sizes = sizes_of((100 * MIB,) * layers)
    room = Room(int(device * 100 * MIB), int(host * 100 * MIB))
    return lay_out(sizes, "float16", "cuda", room, Counts(gpu, cpu))


def test_a_model_that_fits_does_not_stream() -> None:
    placement, streaming = cuda(32, 32)
    assert placement.accelerator_layers == 32
    assert streaming == StreamingPlan()


@pytest.mark.parametrize(
    ("layers", "device", "slots", "kept"),
    [
        (32, 20, 3, 17),  # three slots leave room for a layer more, and divide 15
        (28, 9, 4, 5),  # nothing divides 23
        (27, 9, 3, 6),
        (26, 9, 3, 5),
        (31, 9, 4, 5),  # nothing divides 26
        (32, 3.5, 3, 0),
        (32, 2.9, 2, 0),
    ],
)
def test_slots_divide_the_streamed_layers_where_that_keeps_as_many(
    layers: int, device: float, slots: int, kept: int
) -> None:
    placement, streaming = cuda(layers, device)
    assert (streaming.device_slots, placement.accelerator_layers) == (slots, kept)


@pytest.mark.parametrize(("gpu", "slots"), [(7, 5), (8, 4), (14, 6), (23, 3), (9, 4), (31, 1)])
def test_slots_divide_the_layers_that_were_asked_to_stream(gpu: int, slots: int) -> None:
    placement, streaming = cuda(32, 1000, gpu=gpu)
    assert (streaming.device_slots, placement.accelerator_layers) == (slots, gpu)


def test_what_neither_memory_holds_comes_from_disk_through_pinned_buffers() -> None:
    placement, streaming = cuda(32, 8, host=40)
    assert placement.disk_layers == 0
    assert streaming.staging_slots == 0
    placement, streaming = cuda(60, 8, host=40)
    assert (placement.host_layers, streaming.staging_slots) == (34, 6)
    placement, streaming = cuda(60, 8, host=8)
    assert (placement.host_layers, streaming.staging_slots) == (6, 2)


def test_packed_layers_take_three_quarters_and_a_raw_buffer() -> None:
    sizes = sizes_of((100 * MIB,) * 32)
    room = Room(10 * 100 * MIB, 25 * 100 * MIB)
    placement, streaming = lay_out(sizes, "bfloat16", "cuda", room, Counts(None, None))
    assert streaming.packed
    assert placement.disk_layers == 0
    assert placement.host_layers * packed_bytes(100 * MIB) <= room.host_bytes
    assert streaming.device_slot_bytes == packed_bytes(100 * MIB)
    assert streaming.device_bytes == streaming.device_slots * packed_bytes(100 * MIB) + 100 * MIB
    raw, _ = lay_out(sizes, "float16", "cuda", room, Counts(None, None))
    assert raw.disk_layers > 0


def test_slots_are_raw_where_some_of_the_layers_come_from_disk() -> None:
    sizes, room = sizes_of((100 * MIB,) * 32), Room(1000 * MIB, 1000 * MIB)
    placement, streaming = lay_out(sizes, "bfloat16", "cuda", room, Counts(None, None))
    assert streaming.packed
    assert placement.host_layers
    assert placement.disk_layers
    assert streaming.device_slot_bytes == 100 * MIB
    assert streaming.device_bytes == (streaming.device_slots + 1) * 100 * MIB


def test_hot_experts_get_the_room_that_is_left_and_are_never_packed() -> None:
    sizes = sizes_of((100 * MIB,) * 32, expert_share=0.9)
    room = Room(450 * MIB, 1000 * 100 * MIB)
    placement, streaming = lay_out(sizes, "bfloat16", "cuda", room, Counts(0, None))
    assert placement.accelerator_layers == 0
    assert streaming.expert_streaming
    assert streaming.slot_bytes == 10 * MIB
    assert streaming.expert_slots == 2
    assert streaming.expert_room_bytes == (90 + 2 * 9) * MIB
    slots_bytes = 4 * packed_bytes(10 * MIB) + 10 * MIB
    assert streaming.expert_cache_bytes == (450 - 108) * MIB - slots_bytes
    assert sizes.host_layer_bytes(packed=True)[0] == 90 * MIB + packed_bytes(10 * MIB)
    roomy = Room(1000 * 100 * MIB, 1000 * 100 * MIB)
    _, streaming = lay_out(sizes, "bfloat16", "cuda", roomy, Counts(0, None))
    assert streaming.expert_cache_bytes == 32 * 90 * MIB
    _, streaming = lay_out(sizes, "bfloat16", "cuda", roomy, Counts(None, None))
    assert streaming == StreamingPlan()


def test_experts_on_disk_have_a_pinned_room_beside_the_staging() -> None:
    sizes = sizes_of((100 * MIB,) * 32, expert_share=0.9)
    room = Room(450 * MIB, 1000 * MIB)
    placement, streaming = lay_out(sizes, "float16", "cuda", room, Counts(0, None))
    assert placement.disk_layers
    assert streaming.expert_staging_bytes == 2 * 9 * MIB
    assert streaming.staging_bytes == (streaming.staging_slots * 10 + 18) * MIB
    _, on_cpu = lay_out(sizes, "float32", "cpu", room, Counts(None, None))
    assert on_cpu.expert_streaming
    assert on_cpu.staging_bytes == 0


def test_dense_layers_among_mixtures_stream_whole() -> None:
    layers = (40 * MIB, *(100 * MIB,) * 31)
    sizes = replace(sizes_of(layers, expert_share=0.9), expert_bytes=(0, *(90 * MIB,) * 31))
    _, streaming = lay_out(
        sizes, "float16", "cuda", Room(400 * MIB, 1000 * 100 * MIB), Counts(0, None)
    )
    assert streaming.slot_bytes == 40 * MIB
    _, streaming = lay_out(
        sizes, "float16", "cuda", Room(10**12, 10**12), Counts(31, None, "prefix")
    )
    assert streaming.slot_bytes == 40 * MIB
    assert not streaming.expert_streaming
    assert streaming.device_bytes == 40 * MIB
