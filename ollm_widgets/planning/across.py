"""Layers placed across several accelerators, each with buffers of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ollm_widgets.planning.dealing import (
    Hands,
    cut_in_runs,
    deal,
    kept_by_each,
    least_streamed,
    share_out,
)
from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.ids import DType, LayerTier
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.streaming import Counts, LayoutBook, Room, well_fed_bytes
from ollm_widgets.planning.weights import WeightSizes

_PLENTY_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Site:
    """An accelerator, and its bytes for layers, their KV cache, and buffers."""

    device: Device
    room_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """What one of several accelerators has of a plan.

    Parameters
    ----------
    device
        The accelerator.
    layers
        The layers that compute on it, in the order of a pass.
    kv_bytes
        Their KV cache.
    streaming
        The buffers of its own ring.
    """

    device: Device
    layers: tuple[int, ...]
    kv_bytes: int = 0
    streaming: StreamingPlan = field(default_factory=StreamingPlan)


@dataclass(frozen=True, slots=True)
class _Hand:
    """The layers of one device while they are laid out."""

    site: Site
    layers: tuple[int, ...]
    sizes: WeightSizes
    kv_bytes: int
    counts: Counts

    page_cache_bytes: int

    def lay_out(
        self, dtype: DType, book: LayoutBook, host_bytes: int, packing: bool
    ) -> tuple[LayerPlacement, StreamingPlan]:
        if not self.layers:
            return LayerPlacement(), StreamingPlan()
        layouts = book.layouts(self.sizes, dtype, self.site.device, packing=packing, repeats=False)
        room_bytes = max(self.site.room_bytes - self.kv_bytes, 0)
        return layouts.best(Room(room_bytes, host_bytes, self.page_cache_bytes), self.counts)

    def host_bytes(self, placement: LayerPlacement, streaming: StreamingPlan) -> int:
        each = self.sizes.host_layer_bytes(packed=streaming.packed)
        pairs = zip(placement.tiers, each, strict=True)
        return sum(size for tier, size in pairs if tier == "host")


def lay_out_across(
    sizes: WeightSizes,
    kv_layer_bytes: Sequence[int],
    dtype: DType,
    sites: Sequence[Site],
    book: LayoutBook,
    *,
    host_bytes: int,
    page_cache_bytes: int,
    counts: Counts,
) -> tuple[LayerPlacement, StreamingPlan, tuple[DeviceShare, ...]]:
    """Place the layers on several accelerators, and plan the buffers of each.

    Where all layers stay, each device has a run of them. Else those that stay come in runs, and
    those that stream go to the devices in turn, so that each wire carries as much.

    Parameters
    ----------
    kv_layer_bytes
        The KV cache of each layer.
    sites
        The accelerators; a pass begins on the first.
    book
        Finds the placement of each one's layers.
    host_bytes, page_cache_bytes
        Of host memory, for all of them; see `Room`.
    counts
        Over all of them.

    Returns
    -------
    LayerPlacement, StreamingPlan, tuple of DeviceShare
        The plan is one for all: a device takes no more than it says. The shares say what each
        takes; a device without layers has none, except the first.
    """
    hands = _hands(sizes, kv_layer_bytes, dtype, sites, counts, page_cache_bytes=page_cache_bytes)
    laid = _laid_out(hands, dtype, book, host_bytes, packing=True)
    holding = {streaming.packed for placement, streaming in laid if placement.host_layers}
    if len(holding) > 1:  # host memory holds all layers packed, or none
        laid = _laid_out(hands, dtype, book, host_bytes, packing=False)
    return _joined(hands, laid, len(sizes.layer_bytes))


def _hands(
    sizes: WeightSizes,
    kv_layer_bytes: Sequence[int],
    dtype: DType,
    sites: Sequence[Site],
    counts: Counts,
    *,
    page_cache_bytes: int,
) -> tuple[_Hand, ...]:
    total, asked = len(sizes.layer_bytes), counts.accelerator
    if asked is not None:
        asked = min(asked, total)
    in_host = None if counts.host is None else min(counts.host, total - (asked or 0))
    dealt, kept = _dealt(sizes, kv_layer_bytes, dtype, sites, replace(counts, host=in_host))
    passing = [len(hand) - count for hand, count in zip(dealt, kept, strict=True)]
    hosts = [None] * len(sites) if in_host is None else share_out(in_host, passing)
    return tuple(
        _Hand(
            site,
            layers,
            _part_of(sizes, layers),
            sum(kv_layer_bytes[index] for index in layers),
            Counts(None if asked is None else count, host, counts.policy),
            page_cache_bytes * len(layers) // total,
        )
        for site, layers, count, host in zip(sites, dealt, kept, hosts, strict=True)
    )


def _dealt(
    sizes: WeightSizes,
    kv_layer_bytes: Sequence[int],
    dtype: DType,
    sites: Sequence[Site],
    counts: Counts,
) -> tuple[Hands, tuple[int, ...]]:
    """Return the layers of each device, and how many of them are to stay there."""
    total, rooms = len(sizes.layer_bytes), [site.room_bytes for site in sites]
    held = [size + kv for size, kv in zip(sizes.layer_bytes, kv_layer_bytes, strict=True)]
    if counts.accelerator in (None, total) and not counts.host:
        runs = cut_in_runs(held, rooms)
        if runs is not None:
            return runs, tuple(len(run) for run in runs)
    each, kv_each = -(-sum(held) // total), -(-sum(kv_layer_bytes) // total)
    if counts.accelerator is not None:
        staying = min(counts.accelerator, total)
    else:
        buffers = well_fed_bytes(sizes, dtype, "cuda")
        beside = [max(room - buffers, 0) for room in rooms]
        passing = least_streamed(total, each, kv_each, beside)
        staying = total - max(passing, counts.host or 0)
    kept = kept_by_each(staying, each, rooms)
    return deal(sizes.layer_bytes, kept, counts.policy), kept


def _part_of(sizes: WeightSizes, layers: tuple[int, ...]) -> WeightSizes:
    def of(each: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(each[index] for index in layers) if each else ()

    return replace(
        sizes,
        layer_bytes=of(sizes.layer_bytes),
        stored_layer_bytes=of(sizes.stored_layer_bytes),
        expert_bytes=of(sizes.expert_bytes),
        held_layer_bytes=of(sizes.held_layer_bytes),
        held_expert_bytes=of(sizes.held_expert_bytes),
    )


def _laid_out(
    hands: Sequence[_Hand], dtype: DType, book: LayoutBook, host_bytes: int, *, packing: bool
) -> list[tuple[LayerPlacement, StreamingPlan]]:
    """Lay out each hand with its share of host memory: by what it would put there."""
    free = [hand.lay_out(dtype, book, _PLENTY_BYTES, packing) for hand in hands]
    wanted = [hand.host_bytes(*each) for hand, each in zip(hands, free, strict=True)]
    on_disk = [placement.disk_layers for placement, _ in free]
    if any(on_disk):  # as asked; what host memory has left is for the buffers between
        left = host_bytes - sum(wanted)
        rooms = [
            size + left * count // sum(on_disk) for size, count in zip(wanted, on_disk, strict=True)
        ]
    elif sum(wanted) > host_bytes and all(hand.counts.host is None for hand in hands):
        rooms = [host_bytes * size // sum(wanted) for size in wanted]
    else:
        return free
    return [
        hand.lay_out(dtype, book, room, packing) for hand, room in zip(hands, rooms, strict=True)
    ]


def _joined(
    hands: Sequence[_Hand], laid: Sequence[tuple[LayerPlacement, StreamingPlan]], total: int
) -> tuple[LayerPlacement, StreamingPlan, tuple[DeviceShare, ...]]:
    tiers: list[LayerTier] = ["disk"] * total
    devices = [""] * total
    for hand, (placement, _) in zip(hands, laid, strict=True):
        for index, tier in zip(hand.layers, placement.tiers, strict=True):
            tiers[index], devices[index] = tier, hand.site.device.name
    bounds = [_bounds(hand, *each) for hand, each in zip(hands, laid, strict=True)]
    streaming = _common([plan for _, plan in laid], bounds)
    shares = tuple(
        DeviceShare(hand.site.device, hand.layers, hand.kv_bytes, _within(plan, streaming, bound))
        for hand, (_, plan), bound in zip(hands, laid, bounds, strict=True)
        if hand.layers or hand is hands[0]
    )
    return LayerPlacement(tuple(tiers), tuple(devices)), streaming, shares


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The most of each buffer that one device can use, whatever the plan for all says."""

    device_slots: int
    staging_slots: int
    expert_cache_bytes: int


def _bounds(hand: _Hand, placement: LayerPlacement, streaming: StreamingPlan) -> _Bounds:
    passing = [index for index, tier in enumerate(placement.tiers) if tier != "accelerator"]
    experts = hand.sizes.held_experts if streaming.expert_streaming else ()
    return _Bounds(
        len(passing), placement.disk_layers, sum(experts[index] for index in passing if experts)
    )


def _common(plans: Sequence[StreamingPlan], bounds: Sequence[_Bounds]) -> StreamingPlan:
    """Make the one plan that the ring of each device can follow."""
    return StreamingPlan(
        device_slots=_least(
            (plan.device_slots, bound.device_slots)
            for plan, bound in zip(plans, bounds, strict=True)
        ),
        slot_bytes=max(plan.slot_bytes for plan in plans),
        stored_slot_bytes=max(plan.stored_slot_bytes for plan in plans),
        staging_slots=_least(
            (plan.staging_slots, bound.staging_slots)
            for plan, bound in zip(plans, bounds, strict=True)
        ),
        packed=any(plan.packed for plan in plans),
        expert_streaming=any(plan.expert_streaming for plan in plans),
        expert_slots=max(plan.expert_slots for plan in plans),
        expert_room_bytes=max(plan.expert_room_bytes for plan in plans),
        expert_staging_bytes=max(plan.expert_staging_bytes for plan in plans),
        expert_cache_bytes=_least(
            (plan.expert_cache_bytes, bound.expert_cache_bytes)
            for plan, bound in zip(plans, bounds, strict=True)
        ),
    )


def _least(pairs: Iterable[tuple[int, int]]) -> int:
    """Return the least of the values; one that is all its device can use binds no other."""
    known = tuple(pairs)
    binding = [value for value, most in known if value < most]
    return min(binding, default=max(value for value, _ in known))


def _within(own: StreamingPlan, common: StreamingPlan, most: _Bounds) -> StreamingPlan:
    return replace(
        own,
        device_slots=min(common.device_slots, most.device_slots),
        staging_slots=min(common.staging_slots, most.staging_slots),
        expert_cache_bytes=min(common.expert_cache_bytes, most.expert_cache_bytes),
    )
