"""All buffers through which layers may stream, and what each set of them leaves for layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from ollm_widgets.planning.ids import DeviceKind, LayerTier
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.search.kinds import Kind
from ollm_widgets.planning.search.rings import (
    Staging,
    buffers_of,
    held_compact_bytes,
    rings_for,
    stagings_for,
)
from ollm_widgets.planning.search.room import Counts, Room
from ollm_widgets.planning.search.splits import Limits
from ollm_widgets.planning.weights import WeightSizes


@dataclass(frozen=True, slots=True)
class Buffers:
    """What decides which buffers there may be.

    Parameters
    ----------
    captures
        Whether steps can be captured, if nothing comes from disk.
    packed, from_disk
        Whether layers in host memory are packed, and whether some are on disk.
    """

    sizes: WeightSizes
    kinds: Sequence[Kind]
    device_kind: DeviceKind
    captures: bool
    packed: bool
    from_disk: bool

    def limits(self, room: Room, counts: Counts) -> Iterator[tuple[Limits, StreamingPlan]]:
        """Yield all buffers that fit, each with what it leaves; the preferred first."""
        on_cpu, total = self.device_kind == "cpu", len(self.sizes.layer_bytes)
        kept, host = (counts.host, None) if on_cpu else (counts.accelerator, counts.host)
        streamed = None if kept is None else total - kept
        if streamed is None and not self.from_disk:
            streamed = host
        captured = self.captures and not self.from_disk
        rings = rings_for(self.device_kind, total, captured=captured, asked=streamed)
        stagings = [Staging(0, total, total)]
        any_slots = replace(buffers_of(self.sizes), packed=self.packed)
        if self.from_disk:
            stagings = stagings_for(total, asked_host=host)
            in_compact = held_compact_bytes(self.sizes, any_slots.expert_slots)
            any_slots = replace(any_slots, expert_staging_bytes=in_compact, staging_slots=1)
        # Smaller slots will do where all larger layers stay.
        for slot_bytes in sorted({kind.slot_bytes for kind in self.kinds}, reverse=True):
            stored_bytes = self._stored_slot_bytes(slot_bytes)
            for preferred, ring in enumerate(rings):
                streaming = replace(
                    any_slots,
                    device_slots=ring.slots,
                    slot_bytes=slot_bytes,
                    stored_slot_bytes=stored_bytes,
                )
                device_bytes = room.device_bytes - streaming.device_bytes
                if device_bytes < 0:
                    continue
                for place, staging in enumerate(stagings):
                    staged = staging.slots * streaming.read_slot_bytes
                    staged += streaming.expert_staging_bytes
                    if not on_cpu and staged > room.host_bytes:
                        continue
                    taken = streaming.device_bytes if on_cpu else staged
                    yield (
                        Limits(
                            device_bytes=device_bytes,
                            host_bytes=room.host_bytes - staged,
                            streams=ring.streams,
                            from_disk=self.from_disk,
                            slot_bytes=slot_bytes,
                            kept=kept,
                            host=host,
                            most_host=staging.most_host,
                            most_disk=staging.most_disk,
                            staging_slots=staging.slots,
                            caches_experts=not ring.scarce,
                            spares_page_cache=ring.spares_page_cache,
                            page_cache_bytes=room.page_cache_bytes - taken,
                            preference=preferred * len(stagings) + place,
                        ),
                        streaming,
                    )

    def _stored_slot_bytes(self, slot_bytes: int) -> int:
        """What a slot takes of the layers that it suffices for, as they are stored."""
        passing = [kind.indices for kind in self.kinds if kind.slot_bytes <= slot_bytes]
        return self.sizes.stored_slot_bytes(chain.from_iterable(passing))


def settled(
    sizes: WeightSizes,
    streaming: StreamingPlan,
    placement: LayerPlacement,
    room_bytes: int,
    own: LayerTier,
) -> StreamingPlan:
    """Leave out what streamed layers do not need; give the room that is left to experts."""
    streamed = [index for index, tier in enumerate(placement.tiers) if tier != own]
    if not streamed:
        return StreamingPlan()
    expert_bytes = sum(sizes.held_experts[index] for index in streamed) if sizes.experts else 0
    if not expert_bytes:
        streaming = replace(
            streaming,
            expert_streaming=False,
            expert_slots=0,
            expert_room_bytes=0,
            expert_staging_bytes=0,
        )
    streaming = replace(
        streaming,
        slot_bytes=max(sizes.dense_bytes[index] for index in streamed),
        stored_slot_bytes=sizes.stored_slot_bytes(streamed),
        staging_slots=min(streaming.staging_slots, placement.disk_layers),
        packed=streaming.packed and placement.host_layers > 0,
    )
    left_bytes = room_bytes - on_device_bytes(sizes, placement, streaming, own)
    return replace(streaming, expert_cache_bytes=min(max(left_bytes, 0), expert_bytes))


def on_device_bytes(
    sizes: WeightSizes, placement: LayerPlacement, streaming: StreamingPlan, own: LayerTier
) -> int:
    """Bytes of layers and buffers on the device that computes."""
    pairs = zip(placement.tiers, sizes.layer_bytes, strict=True)
    return sum(size for tier, size in pairs if tier == own) + streaming.device_bytes
