"""The placement under which a token takes the least time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ollm_widgets.planning.ids import DeviceKind, DType, LayerTier, OffloadPolicy
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.placement import place_layers
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.search.bands import Bands
from ollm_widgets.planning.search.buffers import Buffers, on_device_bytes, settled
from ollm_widgets.planning.search.kinds import MOST_WAYS, MOST_WAYS_FROM_DISK, Kind, kinds_of
from ollm_widgets.planning.search.objective import speeds_for
from ollm_widgets.planning.search.pricing import priced
from ollm_widgets.planning.search.rings import (
    LEAST_SLOTS,
    buffers_of,
    held_compact_bytes,
    packs,
)
from ollm_widgets.planning.search.room import Counts, Room
from ollm_widgets.planning.search.splits import Found, Limits, Split, Splits
from ollm_widgets.planning.weights import WeightSizes


@dataclass(frozen=True, slots=True)
class _Layout:
    """A placement that was found, and its buffers."""

    found: Found
    placement: LayerPlacement
    streaming: StreamingPlan


class Layouts:
    """Finds the placement under which a token takes the least time, by `search.objective`.

    Parameters
    ----------
    sizes
        The weights; every layer must be known.
    measure
        Gives what was measured of the device, where a choice depends on it, and whether layers
        are read from disk in that choice; nominal speeds stand in for what was not measured.
    packing
        Whether layers in host memory may be packed at all.
    repeats
        Whether steps may be captured, which asks that each layer finds its slot again.
    """

    def __init__(
        self,
        sizes: WeightSizes,
        dtype: DType,
        kind: DeviceKind,
        measure: Callable[[bool], Bandwidth | None],
        *,
        packing: bool = True,
        repeats: bool = True,
    ) -> None:
        self._sizes = sizes
        self._kind = kind
        self._measure = measure
        self._packed = (True, False) if packing and packs(sizes, dtype, kind) else (False,)
        self._captures = repeats and kind == "cuda"
        self._kinds = {
            from_disk: kinds_of(
                sizes,
                most_ways=MOST_WAYS_FROM_DISK if from_disk else MOST_WAYS,
                last_first=kind == "cpu",
            )
            for from_disk in (False, True)
        }
        self._buffers = buffers_of(sizes)
        self._total = len(sizes.layer_bytes)
        self._splits: dict[tuple[bool, bool], Splits] = {}
        self._bands: dict[tuple[bool, bool, OffloadPolicy], Bands] = {}

    def best(self, room: Room, counts: Counts) -> tuple[LayerPlacement, StreamingPlan]:
        """Place the layers, and plan the buffers of those that stream.

        Counts that were asked for are kept, even where they do not fit; what the planner decides
        fits, if only the least buffers do.
        """
        counts = replace(counts, accelerator=self._most(counts.accelerator),
                         host=self._most(counts.host))  # fmt: skip
        on_cpu, total = self._kind == "cpu", self._total
        asked = counts.host if on_cpu else counts.accelerator
        others = 0 if on_cpu else counts.host or 0
        all_fit = not others and self._sizes.layers_bytes <= room.device_bytes
        if asked == total or (asked is None and all_fit):
            whole = (0, total) if on_cpu else (total, 0)
            return place_layers(total, *whole), StreamingPlan()
        best = self._better(room, counts, None, from_disk=False)
        crowded = any(self._sizes.expert_bytes) and sum(self._sizes.held_layers) > room.host_bytes
        if not on_cpu and (best is None or crowded):
            # What host memory cannot hold must stay on the device, where hot experts may be worth
            # more: then some layers on disk may be the better choice.
            best = self._better(room, counts, best, from_disk=True)
        elif not on_cpu and counts.policy != "auto" and counts.host is None:
            # A band of the form that was asked for may hold layers that had better stay on the
            # device; with none in host memory they do.
            best = self._better(room, replace(counts, host=0), best, from_disk=True)
        if best is None:
            return self._not_fitting(room, counts)
        return best.placement, best.streaming

    def _most(self, count: int | None) -> int | None:
        return None if count is None else min(count, self._total)

    def _better(
        self, room: Room, counts: Counts, so_far: _Layout | None, *, from_disk: bool
    ) -> _Layout | None:
        best = so_far.found if so_far is not None else None
        kinds = self._kinds[from_disk]
        for packed in self._packed:
            splits = self._splits_of(packed, from_disk)
            buffers = Buffers(self._sizes, kinds, self._kind, self._captures, packed, from_disk)
            for limits, streaming in buffers.limits(room, counts):
                found = self._best_of(splits, counts.policy, limits, best)
                if found is not best:
                    best, within = found, limits
                    plan = replace(streaming, staging_slots=limits.staging_slots)
        if best is None or (so_far is not None and best is so_far.found):
            return so_far
        placement = self._placement(best.split, kinds, counts.policy)
        own: LayerTier = "host" if self._kind == "cpu" else "accelerator"
        plan = settled(self._sizes, plan, placement, room.device_bytes, own)
        hot_bytes = plan.expert_cache_bytes if within.caches_experts else 0
        if within.spares_page_cache:
            stored = self._sizes.stored_layer_bytes or self._sizes.layer_bytes
            pairs = zip(placement.tiers, stored, strict=True)
            read = sum(size for tier, size in pairs if tier != own)
            taken = on_device_bytes(self._sizes, placement, plan, own) - hot_bytes
            hot_bytes = min(hot_bytes, max(room.page_cache_bytes - taken - read, 0))
        return _Layout(best, placement, replace(plan, expert_cache_bytes=hot_bytes))

    def _best_of(
        self, splits: Splits, policy: OffloadPolicy, limits: Limits, best: Found | None
    ) -> Found | None:
        if policy == "auto":
            return splits.best(limits, best)
        return self._bands_of(splits, policy, limits.from_disk).best(limits, best)

    def _splits_of(self, packed: bool, from_disk: bool) -> Splits:
        known = self._splits.get((packed, from_disk))
        if known is None:
            streaming = replace(
                self._buffers,
                packed=packed,
                captured_steps=self._captures and not from_disk,
            )
            speeds = speeds_for(self._kind, self._measure(from_disk or self._kind == "cpu"))
            kinds = self._kinds[from_disk]
            price = priced(self._sizes, kinds, self._kind, streaming, speeds)
            known = Splits(self._sizes, kinds, price, packed)
            self._splits[packed, from_disk] = known
        return known

    def _bands_of(self, splits: Splits, policy: OffloadPolicy, from_disk: bool) -> Bands:
        key = (splits.packed, from_disk, policy)
        if key not in self._bands:
            self._bands[key] = Bands(splits, policy)
        return self._bands[key]

    def _placement(
        self, split: Split, kinds: Sequence[Kind], policy: OffloadPolicy
    ) -> LayerPlacement:
        on_cpu = self._kind == "cpu"
        if policy != "auto":
            (kept,), (on_disk,) = split
            counts = (0, kept) if on_cpu else (kept, self._total - kept - on_disk)
            return place_layers(self._total, *counts, policy)
        tiers: list[LayerTier] = ["disk"] * self._total
        for kind, kept, on_disk in zip(kinds, *split, strict=True):
            for index in kind.indices[:kept]:
                tiers[index] = "host" if on_cpu else "accelerator"
            for index in () if on_cpu else kind.indices[kept + on_disk :]:
                tiers[index] = "host"
        return LayerPlacement(tuple(tiers))

    def _not_fitting(self, room: Room, counts: Counts) -> tuple[LayerPlacement, StreamingPlan]:
        """Place as asked, and else as little as there can be; it does not fit."""
        sizes, total, on_cpu = self._sizes, self._total, self._kind == "cpu"
        own: LayerTier = "host" if on_cpu else "accelerator"
        kept = min((counts.host if on_cpu else counts.accelerator) or 0, total)
        for packed in self._packed:
            in_host = counts.host
            if in_host is None:
                in_host = self._surely_in_host(room.host_bytes, total - kept, packed=packed)
            in_host = kept if on_cpu else min(in_host, total - kept)
            placement = place_layers(total, 0 if on_cpu else kept, in_host, counts.policy)
            on_disk = 0 if on_cpu else placement.disk_layers
            streaming = replace(
                self._buffers,
                device_slots=min(LEAST_SLOTS, total - kept),
                packed=packed and placement.host_layers > 0,
                staging_slots=min(LEAST_SLOTS, on_disk),
                expert_staging_bytes=(
                    held_compact_bytes(sizes, self._buffers.expert_slots) if on_disk else 0
                ),
            )
            streaming = settled(sizes, streaming, placement, room.device_bytes, own)
            if on_device_bytes(sizes, placement, streaming, own) <= room.device_bytes:
                break
        return placement, streaming

    def _surely_in_host(self, room_bytes: int, most: int, *, packed: bool) -> int:
        """How many layers, whichever they are, fit beside the buffers that the others need."""
        each = sorted(self._sizes.host_layer_bytes(packed=packed), reverse=True)
        sums = list(accumulate(each[:most]))
        if most and sums[-1] <= room_bytes:
            return most
        beside = LEAST_SLOTS * self._buffers.read_slot_bytes
        beside += held_compact_bytes(self._sizes, self._buffers.expert_slots)
        return sum(size <= room_bytes - beside for size in sums)
