"""The planner's choice against every other."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.planning.ids import DeviceKind, DType, LayerTier
from ollm_widgets.planning.search.rings import buffers_of, rings_for
from ollm_widgets.planning.streaming import Counts, Layouts, Room
from tests.planning.search.layers import (
    GPU,
    MIB,
    SPEEDS,
    least_seconds,
    quantized,
    seconds,
    sizes_of,
)

any_size = st.integers(4 * MIB, 400 * MIB)
dtypes = st.sampled_from(["bfloat16", "float16"])
# Sizes and rooms come from a seed: hypothesis by itself likes equal sizes and empty rooms.
seeds = st.integers(0, 2**32)


def some_layers(chance: Random, count: int, sizes: int) -> tuple[int, ...]:
    pool = [chance.randrange(4 * MIB, 400 * MIB) for _ in range(sizes)]
    return tuple(chance.choice(pool) for _ in range(count))


def agrees(
    chance: Random,
    layers: tuple[int, ...],
    kind: DeviceKind,
    dtype: DType,
    in_host: int | None = None,
    *,
    stored: bool = False,
) -> None:
    """Compare the planner with all other placements in the same buffers."""
    device, host = chance.uniform(0.02, 1.1), chance.uniform(0.02, 1.1)
    with_experts = in_host is None and chance.random() < 0.5
    sizes = sizes_of(layers, tuple(size * 7 // 8 for size in layers) if with_experts else ())
    if stored:
        sizes = quantized(sizes, chance.choice([1.0, 0.5]), chance.choice([0.5, 0.27]))
    room = Room(int(device * sum(layers)) + max(layers), int(host * sum(layers)), 0)
    layouts = Layouts(sizes, dtype, kind, lambda _: SPEEDS[kind])
    placement, streaming = layouts.best(room, Counts(None, in_host))
    if not streaming.device_slots:
        return
    best = least_seconds(
        sizes, kind, room, streaming, from_disk=kind == "cuda" and placement.disk_layers > 0,
        host=in_host,
    )  # fmt: skip
    if best is None and in_host is not None:  # so many layers do not fit there
        return
    if best is None:  # not even the least buffers fit
        assert buffers_of(sizes).device_bytes + 2 * max(sizes.dense_bytes) > room.device_bytes or (
            room.host_bytes < 3 * max(layers)
        )
        return
    assert seconds(sizes, kind, placement, streaming) == pytest.approx(best, rel=1e-9)


@settings(deadline=None, max_examples=150)
@given(seeds, dtypes)
def test_no_placement_of_a_few_layers_on_a_gpu_is_faster(seed: int, dtype: DType) -> None:
    chance = Random(seed)
    agrees(chance, some_layers(chance, chance.randint(1, 5), 5), "cuda", dtype)


@settings(deadline=None, max_examples=100)
@given(seeds, st.sampled_from(["cuda", "cpu"]))
def test_no_placement_of_a_few_quantized_layers_is_faster(seed: int, kind: DeviceKind) -> None:
    chance = Random(seed)
    agrees(chance, some_layers(chance, chance.randint(1, 5), 5), kind, "bfloat16", stored=True)


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_no_placement_of_a_few_layers_on_a_cpu_is_faster(seed: int) -> None:
    chance = Random(seed)
    agrees(chance, some_layers(chance, chance.randint(1, 7), 7), "cpu", "float32")


@settings(deadline=None, max_examples=60)
@given(seeds, dtypes)
def test_no_placement_of_twelve_layers_is_faster(seed: int, dtype: DType) -> None:
    chance = Random(seed)
    agrees(chance, some_layers(chance, 12, 2), "cuda", dtype)


@settings(deadline=None, max_examples=40)
@given(seeds, dtypes)
def test_no_placement_with_as_many_layers_in_host_memory_is_faster(seed: int, dtype: DType) -> None:
    chance = Random(seed)
    layers = some_layers(chance, chance.randint(2, 5), 5)
    agrees(chance, layers, "cuda", dtype, in_host=chance.randint(1, len(layers)))


@settings(deadline=None, max_examples=12)
@given(seeds)
def test_none_of_all_half_million_placements_of_twelve_sizes_is_faster(seed: int) -> None:
    chance = Random(seed)
    layers = some_layers(chance, 12, 99)
    device, host = chance.uniform(0.3, 0.8), chance.uniform(0.2, 0.8)
    sizes = sizes_of(layers)
    room = Room(int(device * sum(layers)) + 2 * max(layers), int(host * sum(layers)), 0)
    layouts = Layouts(sizes, "float16", "cuda", lambda _: GPU)
    placement, streaming = layouts.best(room, Counts(None, None))
    if not streaming.device_slots:
        return
    buffers = replace(
        buffers_of(sizes),
        device_slots=streaming.device_slots,
        slot_bytes=streaming.slot_bytes,
        staging_slots=streaming.staging_slots,
    )
    # Digits of each number are the tiers of the layers: device, host, disk.
    tiers = np.arange(3**12)[:, None] // 3 ** np.arange(12) % 3
    each = np.array(layers, np.float64)
    kept, in_host, on_disk = ((tiers == tier) @ each for tier in range(3))
    streamed, host_layers = (tiers > 0).sum(1), (tiers == 1).sum(1)
    from_disk = placement.disk_layers > 0
    rings = rings_for("cuda", 12, captured=not from_disk, asked=None)
    takes = [
        any(ring.slots == buffers.device_slots and ring.streams(count) for ring in rings)
        for count in range(13)
    ]
    fits = (kept <= room.device_bytes - buffers.device_bytes) & np.array(takes)[streamed]
    fits &= in_host <= room.host_bytes - buffers.staging_bytes
    fits &= (on_disk > 0) == from_disk
    fits &= np.where(tiers > 0, each, 0).max(1) <= buffers.slot_bytes
    if from_disk and buffers.staging_slots < 6:
        own_buffers = (tiers == 2).sum(1) <= buffers.staging_slots
        few_beside = (host_layers <= 3 * buffers.staging_slots) & (buffers.staging_slots > 1)
        fits &= own_buffers | few_beside
    if not fits.any():
        return
    wire_s = (in_host + on_disk) / (GPU.host_to_device_bytes_per_s or 1)
    disk_s = on_disk / (GPU.disk_bytes_per_s or 1)
    moving_s = np.maximum(wire_s, disk_s)[fits].min()
    everywhere: tuple[LayerTier, ...] = ("accelerator",) * 12
    still_s = seconds(sizes, "cuda", replace(placement, tiers=everywhere), buffers)
    if from_disk:
        nothing_cached = replace(placement, tiers=("disk", *everywhere[1:]))
        small = sizes_of((1,) * 12)
        still_s = max(still_s, seconds(small, "cuda", nothing_cached, buffers))
    assert seconds(sizes, "cuda", placement, streaming) == pytest.approx(
        max(moving_s, still_s), rel=1e-9
    )


@given(st.integers(13, 60), any_size, st.floats(0.05, 0.95), dtypes)
def test_of_equal_layers_the_fewest_that_its_ring_takes_are_moved(
    count: int, size: int, share: float, dtype: DType
) -> None:
    sizes = sizes_of((size,) * count)
    room = Room(int(share * sizes.layers_bytes), 10**15, 0)
    layouts = Layouts(sizes, dtype, "cuda", lambda _: GPU)
    placement, streaming = layouts.best(room, Counts(None, None))
    moved = placement.host_layers
    if not 0 < moved < count:
        return
    buffers = streaming.device_bytes
    room_for = [total * size + buffers <= room.device_bytes for total in range(count + 1)]
    rings = rings_for("cuda", count, captured=True, asked=None)
    fewer = [
        streamed
        for streamed in range(1, moved)
        if room_for[count - streamed]
        and any(r.slots == streaming.device_slots and r.streams(streamed) for r in rings)
    ]
    assert fewer == []


@given(seeds)
def test_of_many_sizes_little_room_is_left_unused(seed: int) -> None:
    chance = Random(seed)
    layers = tuple(chance.randrange(100 * MIB, 400 * MIB) for _ in range(chance.randint(20, 60)))
    share = chance.uniform(0.1, 0.9)
    sizes = sizes_of(layers)
    room = Room(int(share * sum(layers)), int(share * sum(layers) / 2), 0)
    layouts = Layouts(sizes, "float16", "cuda", lambda _: GPU)
    placement, streaming = layouts.best(room, Counts(None, None))
    if not placement.disk_layers or not placement.accelerator_layers:
        return
    pairs = list(zip(placement.tiers, layers, strict=True))
    on_disk = [size for tier, size in pairs if tier == "disk"]
    # As if layers could be cut to fill what the buffers leave.
    beside = streaming.device_bytes + streaming.staging_bytes
    least = sum(layers) - (room.device_bytes + room.host_bytes - beside)
    assert sum(on_disk) <= least + 5 * max(layers)


def test_a_layer_that_is_worth_more_for_its_bytes_stays() -> None:
    # A dense layer is read whole, of the others an eighth: it is worth the room before them.
    layers = (100 * MIB,) * 4 + (400 * MIB,) * 20
    sizes = sizes_of(layers, (0,) * 4 + (350 * MIB,) * 20)
    ring = list(accumulate([350, 100, 100, 5 * 100, 4 * 100]))[-1] * MIB
    layouts = Layouts(sizes, "float16", "cuda", lambda _: GPU)
    placement, _ = layouts.best(Room(ring, 10**12, 0), Counts(None, None))
    assert placement.tiers[:4] == ("accelerator",) * 4
