"""Models of any layers, and the time of any placement of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from random import Random

from ollm_widgets.planning.ids import DeviceKind, LayerTier, OffloadPolicy
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.search.kinds import kinds_of
from ollm_widgets.planning.search.objective import token_seconds
from ollm_widgets.planning.search.rings import buffers_of, rings_for, stagings_for
from ollm_widgets.planning.streaming import Counts, Layouts, Room
from ollm_widgets.planning.weights import WeightSizes

MIB = 1024**2
# An H200 on its wires, and two cores.
GPU = Bandwidth(4.2e12, 6e14, 54e9, 1.5e9, 25e9, 10e9, 2.1e12, 4.5e-6, 2e-6)
CORES = Bandwidth(2e10, 2e11, None, 1.5e9, 1e10, 1e10, None, 4.5e-6)
SPEEDS: dict[DeviceKind, Bandwidth] = {"cuda": GPU, "cpu": CORES}


def sizes_of(layers: tuple[int, ...], experts: tuple[int, ...] = ()) -> WeightSizes:
    """A model of layers with these bytes, of which some are those of eight experts."""
    return WeightSizes(
        layer_bytes=layers,
        embeddings_bytes=0,
        read_per_token_bytes=sum(layers) - sum(experts) * 7 // 8,
        parameters_per_token=sum(layers) // 2,
        stored_layer_bytes=layers,
        expert_bytes=experts,
        experts=8 if experts else 0,
        active_experts=1 if experts else 0,
    )


def hundreds() -> dict[str, WeightSizes]:
    """Models of a hundred layers; a search takes longer the more sizes there are."""
    chance = Random(7)
    return {
        "one size": sizes_of((436 * MIB,) * 100),
        "two sizes": sizes_of((436 * MIB, 301 * MIB) * 50),
        "a hundred sizes": sizes_of(
            tuple(chance.randrange(99 * MIB, 400 * MIB) for _ in range(100))
        ),
        "mixture behind dense layers": sizes_of(
            (40 * MIB,) * 3 + (400 * MIB,) * 97, (0,) * 3 + (370 * MIB,) * 97
        ),
    }


# Shares of the layers that have room on the device and in host memory.
ROOMS = ((0.4, 2.0), (0.3, 0.3), (0.1, 0.05))


def place(
    sizes: WeightSizes, shares: tuple[float, float], policy: OffloadPolicy
) -> tuple[LayerPlacement, StreamingPlan]:
    """Place all layers of a model anew."""
    device, host = (int(share * sizes.layers_bytes) for share in shares)
    layouts = Layouts(sizes, "bfloat16", "cuda", lambda _: GPU)
    return layouts.best(Room(device, host, host), Counts(None, None, policy))


def quantized(sizes: WeightSizes, dense_share: float, expert_share: float) -> WeightSizes:
    """The same, held as they are stored: in these shares of their bytes."""
    experts = tuple(int(expert_share * size) for size in sizes.expert_bytes)
    dense = tuple(int(dense_share * size) for size in sizes.dense_bytes)
    held = tuple(map(sum, zip(dense, experts, strict=True))) if experts else dense
    return replace(sizes, held_layer_bytes=held, held_expert_bytes=experts, stored_layer_bytes=held)


def seconds(
    sizes: WeightSizes, kind: DeviceKind, placement: LayerPlacement, streaming: StreamingPlan
) -> float:
    """Seconds of a token under a placement, captured where it can be, nothing cached."""
    captured = kind == "cuda" and not placement.disk_layers
    streaming = replace(streaming, captured_steps=captured, read_direct=True)
    return token_seconds(sizes, PlannedRun(kind, placement, streaming), SPEEDS[kind])


def all_placements(sizes: WeightSizes, tiers: tuple[LayerTier, ...]) -> Iterator[LayerPlacement]:
    """Every placement, but of those that differ in layers of one size only one."""
    groups = [kind.indices for kind in kinds_of(sizes, most_ways=10**9)]
    counts = [
        [each for each in product(range(len(group) + 1), repeat=len(tiers) - 1)
         if sum(each) <= len(group)]
        for group in groups
    ]  # fmt: skip
    for chosen in product(*counts):
        placed: list[LayerTier] = [tiers[-1]] * len(sizes.layer_bytes)
        for group, each in zip(groups, chosen, strict=True):
            start = 0
            for tier, count in zip(tiers, each, strict=False):
                for index in group[start : start + count]:
                    placed[index] = tier
                start += count
        yield LayerPlacement(tuple(placed))


def least_seconds(
    sizes: WeightSizes,
    kind: DeviceKind,
    room: Room,
    like: StreamingPlan,
    *,
    from_disk: bool,
    host: int | None = None,
) -> float | None:
    """The least time of any placement that fits with as many slots and buffers as `like` has.

    Parameters
    ----------
    host
        Layers that must be in host memory.
    """
    total = len(sizes.layer_bytes)
    own: LayerTier = "host" if kind == "cpu" else "accelerator"
    rings = [
        ring
        for ring in rings_for(
            kind,
            total,
            captured=kind == "cuda" and not from_disk,
            asked=None if from_disk else host,
        )
        if ring.slots == like.device_slots
    ]
    stagings = [
        staging
        for staging in stagings_for(total, asked_host=host)
        if staging.slots == like.staging_slots
    ]
    buffers = replace(
        buffers_of(sizes),
        device_slots=like.device_slots,
        slot_bytes=like.slot_bytes,
        stored_slot_bytes=like.stored_slot_bytes,
        packed=like.packed,
        staging_slots=like.staging_slots,
        expert_staging_bytes=like.expert_staging_bytes,
    )
    tiers: tuple[LayerTier, ...] = (own, "disk") if kind == "cpu" else ("accelerator", "host")
    if from_disk:
        tiers = ("accelerator", "host", "disk")
    in_host = sizes.host_layer_bytes(packed=like.packed)
    best: float | None = None
    for placement in all_placements(sizes, tiers):
        streamed = [index for index, tier in enumerate(placement.tiers) if tier != own]
        fitting = [ring for ring in rings if ring.streams(len(streamed))]
        if not streamed or not fitting or (from_disk and not placement.disk_layers):
            continue
        if max(sizes.dense_bytes[index] for index in streamed) > like.slot_bytes:
            continue
        kept = sum(sizes.layer_bytes[i] for i, tier in enumerate(placement.tiers) if tier == own)
        left = room.device_bytes - buffers.device_bytes - kept
        held = sum(in_host[i] for i, tier in enumerate(placement.tiers) if tier == "host")
        if left < 0 or (kind != "cpu" and held + buffers.staging_bytes > room.host_bytes):
            continue
        if from_disk and not any(
            placement.host_layers <= staging.most_host
            and placement.disk_layers <= staging.most_disk
            for staging in stagings
        ):
            continue
        if host is not None and placement.host_layers != host:
            continue
        experts = sum(sizes.held_experts[index] for index in streamed) if sizes.experts else 0
        caches = not all(ring.scarce for ring in fitting)
        plan = replace(buffers, expert_cache_bytes=min(left, experts) if caches else 0)
        took = seconds(sizes, kind, placement, plan)
        best = took if best is None else min(best, took)
    return best
