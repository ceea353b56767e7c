"""Which layers stay in memory, and through which buffers the others stream."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate

from ollm_widgets.planning.ids import DeviceKind, DType, LayerTier, OffloadPolicy
from ollm_widgets.planning.parts import RAW_SLOTS_BESIDE_PACKED, LayerPlacement, StreamingPlan
from ollm_widgets.planning.placement import place_layers
from ollm_widgets.planning.weights import WeightSizes

# Four slots keep the wire busy through the gap between two passes; a divisor of the streamed
# layers lets a captured step find each layer in the same slot every time.
_CUDA_SLOTS = (4, 5, 6, 3)
WELL_FED_SLOTS = min(_CUDA_SLOTS)
_LEAST_SLOTS = 2
# Tokens whose experts the compact room holds at once: a batch of two, or one and its neighbour.
_COMPACT_TOKENS = 2
_CPU_SLOTS = (3,)
_CPU_ROOMY_LAYERS = 8
_STAGING_SLOTS = 6
_STAGING_SHARE = 4  # at most a quarter of host memory, while that leaves two


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes left for decoder layers and the buffers through which they stream.

    Parameters
    ----------
    device_bytes
        On the device that computes, beside all other weights, KV cache and activations.
    host_bytes
        In host memory beside an accelerator; not looked at on a CPU.
    """

    device_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Layers that a person asked for in each tier; None leaves it to the planner."""

    accelerator: int | None
    host: int | None
    policy: OffloadPolicy = "auto"


def least_layers_bytes(sizes: WeightSizes | None) -> int:
    """Bytes of the fewest buffers through which all layers can stream, or of all if less."""
    if sizes is None:
        return 0
    least = replace(_buffers(sizes), device_slots=_LEAST_SLOTS)
    return min(least.device_bytes, sizes.layers_bytes)


def packs(dtype: DType, kind: DeviceKind) -> bool:
    """Whether layers in host memory beside an accelerator are held packed."""
    return kind == "cuda" and dtype == "bfloat16"


def _buffers(sizes: WeightSizes) -> StreamingPlan:
    """What streaming takes for any layer, without slots: room for its experts."""
    slot_bytes = max(sizes.dense_bytes, default=0)
    largest = max(sizes.expert_bytes, default=0)
    if not sizes.experts or not largest:
        return StreamingPlan(slot_bytes=slot_bytes)
    slots = min(_COMPACT_TOKENS * sizes.active_experts, sizes.experts)
    return StreamingPlan(
        slot_bytes=slot_bytes,
        expert_streaming=True,
        expert_slots=slots,
        expert_room_bytes=largest + _compact_bytes(sizes, slots),
    )


def _compact_bytes(sizes: WeightSizes, slots: int) -> int:
    each = -(-max(sizes.expert_bytes, default=0) // max(sizes.experts, 1))
    return slots * each


def well_fed_bytes(sizes: WeightSizes, dtype: DType, kind: DeviceKind) -> int:
    """Bytes of the buffers that keep the wire to an accelerator busy, whatever layers stream."""
    slots = _CUDA_SLOTS[0]
    return replace(_buffers(sizes), device_slots=slots, packed=packs(dtype, kind)).device_bytes


def lay_out(
    sizes: WeightSizes,
    dtype: DType,
    kind: DeviceKind,
    room: Room,
    counts: Counts,
    *,
    packing: bool = True,
    repeats: bool = True,
) -> tuple[LayerPlacement, StreamingPlan]:
    """Place the layers, and plan the buffers of those that stream.

    Counts that were asked for are kept, even where they do not fit; what the planner decides
    fits, if only the least buffers do.

    Parameters
    ----------
    sizes
        The weights; every layer must be known.
    packing
        Whether layers in host memory may be packed at all.
    repeats
        Whether steps may be captured, which asks that each layer finds its slot again.
    """
    most = len(sizes.layer_bytes)
    counts = replace(
        counts,
        accelerator=None if counts.accelerator is None else min(counts.accelerator, most),
        host=None if counts.host is None else min(counts.host, most),
    )
    if kind == "cpu":
        return _on_cpu(sizes, room.device_bytes, counts)
    # Packing frees room in host memory, and what host memory holds decides the slots: take the
    # first assumption that comes true.
    tries = [(False, False)]
    if packing and packs(dtype, kind):
        tries = [(True, False), (True, True), (False, False)]
    for packed, from_disk in tries[:-1]:
        placement, streaming = _on_accelerator(
            sizes, room, counts, packed=packed, from_disk=from_disk, repeats=repeats
        )
        as_assumed = placement.host_layers and (placement.disk_layers > 0) <= from_disk
        worth_it = streaming.device_slots > RAW_SLOTS_BESIDE_PACKED
        if (
            as_assumed
            and worth_it
            and _on_device_bytes(sizes, placement, streaming) <= room.device_bytes
        ):
            return placement, streaming
    packed, from_disk = tries[-1]
    return _on_accelerator(sizes, room, counts, packed=packed, from_disk=from_disk, repeats=repeats)


def _on_cpu(
    sizes: WeightSizes, room_bytes: int, counts: Counts
) -> tuple[LayerPlacement, StreamingPlan]:
    layers, buffers = sizes.layer_bytes, _buffers(sizes)
    roomy = room_bytes >= _CPU_ROOMY_LAYERS * max(layers)
    kept, slots = _kept_and_slots(
        layers,
        room_bytes,
        counts.host,
        most=len(layers),
        wanted=_CPU_SLOTS if roomy else (_LEAST_SLOTS,),
        ring_bytes=lambda count: replace(buffers, device_slots=count).device_bytes,
        aligned=False,
    )
    placement = place_layers(len(layers), 0, kept, counts.policy)
    streaming = replace(buffers, device_slots=slots)
    return placement, _settled(streaming, sizes, placement, room_bytes, "host")


def _on_accelerator(
    sizes: WeightSizes,
    room: Room,
    counts: Counts,
    *,
    packed: bool,
    from_disk: bool,
    repeats: bool,
) -> tuple[LayerPlacement, StreamingPlan]:
    layers = sizes.layer_bytes
    buffers = replace(_buffers(sizes), packed=packed, staging_slots=int(from_disk))
    on_device, slots = _kept_and_slots(
        layers,
        room.device_bytes,
        counts.accelerator,
        most=len(layers) - (counts.host or 0),
        wanted=_CUDA_SLOTS,
        ring_bytes=lambda count: replace(buffers, device_slots=count).device_bytes,
        aligned=repeats,
    )
    expert_staging_bytes = _compact_bytes(sizes, buffers.expert_slots)
    in_host, staging = _host_and_staging(
        sizes.host_layer_bytes(packed=packed),
        room.host_bytes,
        counts.host,
        most=len(layers) - on_device,
        slot_bytes=buffers.slot_bytes,
        beside_bytes=expert_staging_bytes,
    )
    placement = place_layers(len(layers), on_device, in_host, counts.policy)
    streaming = replace(
        buffers,
        device_slots=slots,
        staging_slots=staging,
        expert_staging_bytes=expert_staging_bytes if staging else 0,
    )
    return placement, _settled(streaming, sizes, placement, room.device_bytes, "accelerator")


def _kept_and_slots(
    layers: tuple[int, ...],
    room_bytes: int,
    asked: int | None,
    *,
    most: int,
    wanted: tuple[int, ...],
    ring_bytes: Callable[[int], int],
    aligned: bool,
) -> tuple[int, int]:
    """Return how many layers the device keeps, and the slots through which the others pass.

    Parameters
    ----------
    asked, most
        The layers it must keep, and the most that it may.
    wanted
        Numbers of slots, the preferred first.
    aligned
        Prefer the first of them that divides the number of streamed layers.
    """
    total, used = len(layers), _Largest(layers)
    all_fit = asked is None and most == total and used.bytes_of(total) <= room_bytes
    if all_fit or asked == total:
        return total, 0

    def split(slots: int, fewer: int = 0) -> tuple[int, int] | None:
        kept = used.that_fit(room_bytes - ring_bytes(slots)) - fewer if asked is None else asked
        kept = max(min(kept, most), 0)
        slots = min(slots, total - kept)
        fits = used.bytes_of(kept) + ring_bytes(slots) <= room_bytes
        return (kept, slots) if fits else None

    found = [one for slots in wanted for fewer in (0, 1) if (one := split(slots, fewer))]
    if aligned and found:
        # A layer less on the device costs little; a step that does not repeat costs more.
        enough = found[0][0] - 1
        found.sort(key=lambda one: one[0] < enough or (total - one[0]) % one[1] > 0)
    for slots in range(min(wanted) - 1, _LEAST_SLOTS - 1, -1):
        if not found and (one := split(slots)) is not None:
            found.append(one)
    kept = min(asked or 0, most)
    return found[0] if found else (kept, min(_LEAST_SLOTS, total - kept))


def _host_and_staging(
    layers: tuple[int, ...],
    room_bytes: int,
    asked: int | None,
    *,
    most: int,
    slot_bytes: int,
    beside_bytes: int,
) -> tuple[int, int]:
    """Return how many layers host memory keeps, and the buffers for those read from disk.

    Parameters
    ----------
    layers
        Bytes of each layer as host memory has it.
    slot_bytes, beside_bytes
        One of the buffers, and what reading from disk takes beside them.
    """
    used = _Largest(layers)
    kept = min(used.that_fit(room_bytes) if asked is None else asked, most)
    if kept == most:
        return kept, 0
    room_bytes -= beside_bytes
    for_staging = (
        room_bytes // _STAGING_SHARE if asked is None else room_bytes - used.bytes_of(kept)
    )
    staging = max(_LEAST_SLOTS, min(_STAGING_SLOTS, for_staging // max(slot_bytes, 1)))
    if asked is None:
        kept = max(min(used.that_fit(room_bytes - staging * slot_bytes), most), 0)
    return kept, min(staging, most - kept)


def _settled(
    streaming: StreamingPlan,
    sizes: WeightSizes,
    placement: LayerPlacement,
    room_bytes: int,
    own_tier: LayerTier,
) -> StreamingPlan:
    """Leave out what the streamed layers do not need; give the room that is left to experts."""
    streamed = [index for index, tier in enumerate(placement.tiers) if tier != own_tier]
    if not streamed:
        return StreamingPlan()
    expert_bytes = sum(sizes.expert_bytes[index] for index in streamed) if sizes.experts else 0
    if not expert_bytes:
        streaming = replace(
            streaming,
            expert_streaming=False,
            expert_slots=0,
            expert_room_bytes=0,
            expert_staging_bytes=0,
        )
    streaming = replace(streaming, slot_bytes=max(sizes.dense_bytes[index] for index in streamed))
    left_bytes = room_bytes - _on_device_bytes(sizes, placement, streaming, own_tier)
    return replace(streaming, expert_cache_bytes=min(max(left_bytes, 0), expert_bytes))


def _on_device_bytes(
    sizes: WeightSizes,
    placement: LayerPlacement,
    streaming: StreamingPlan,
    own_tier: LayerTier = "accelerator",
) -> int:
    pairs = zip(placement.tiers, sizes.layer_bytes, strict=True)
    kept_bytes = sum(size for tier, size in pairs if tier == own_tier)
    return kept_bytes + streaming.device_bytes


class _Largest:
    """Sums of the largest layers: a bound on any choice of as many."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self._sums = list(accumulate(sorted(layers, reverse=True), initial=0))

    def bytes_of(self, count: int) -> int:
        return self._sums[min(count, len(self._sums) - 1)]

    def that_fit(self, room_bytes: int) -> int:
        """Most layers that surely fit; -1 where not even none does."""
        return bisect_right(self._sums, room_bytes) - 1
