"""The buffers through which layers stream, and how many layers they go with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ollm_widgets.planning.ids import DeviceKind, DType
from ollm_widgets.planning.parts import StreamingPlan
from ollm_widgets.planning.weights import WeightSizes

# Four slots keep the wire busy through the gap between two passes. With a divisor of the streamed
# layers a captured step leaves them in the order in which the next one begins, and then three do.
_CUDA_SLOTS = (4, 5, 6, 3)
_CPU_SLOTS = 3
# So few layers are kept on a CPU that two slots must do.
_CPU_FEW_LAYERS = 5
LEAST_SLOTS = 2
# Tokens whose experts the compact room holds at once: a batch of two, or one and its neighbour.
_COMPACT_TOKENS = 2
_STAGING_SLOTS = 6
# Layers in host memory for each buffer beside them, while there are fewer than six buffers.
_HOST_LAYERS_A_BUFFER = 3


@dataclass(frozen=True, slots=True)
class Ring:
    """A number of slots, and the counts of streamed layers that it is for.

    Parameters
    ----------
    scarce
        It has too few slots to keep the wire busy, or not the number that suits: nothing else
        gets any room before a better one has it.
    spares_page_cache
        Hot experts leave the page cache room for what is read through it.
    """

    slots: int
    streams: Callable[[int], bool]
    scarce: bool = False
    spares_page_cache: bool = False


def rings_for(kind: DeviceKind, layers: int, *, captured: bool, asked: int | None) -> list[Ring]:
    """Return the rings that may be taken, the preferred first.

    Which ring goes with how many streamed layers never depends on what room there is. Four slots
    take any number of layers; where another number divides it and leaves as many on the device,
    that is preferred.

    Parameters
    ----------
    layers
        Of the model.
    captured
        Whether steps may be captured, which asks that each layer finds its slot again.
    asked
        The streamed layers where a person set their number; any ring takes them.
    """
    if asked is not None:
        return _rings_of(kind, asked, captured=captured)
    few = [Ring(each, each.__eq__) for each in (2, 1)]
    if kind == "cpu":
        most = max(layers - _CPU_FEW_LAYERS, LEAST_SLOTS)
        return [
            Ring(_CPU_SLOTS, _as_many),
            Ring(_CPU_SLOTS, _as_many, spares_page_cache=True),
            Ring(LEAST_SLOTS, lambda count: count >= most, scarce=True),
            *few,
        ]
    nothing_kept = [Ring(each, lambda count: count == layers, scarce=True) for each in (3, 2)]
    if not captured:
        four, three = Ring(4, lambda count: count >= 4), Ring(3, lambda count: count == 3)
        return [four, three, *few, *nothing_kept]
    dividing = [Ring(each, _divided_by(each)) for each in _CUDA_SLOTS]
    return [*dividing, Ring(4, lambda count: count >= 4), *few, *nothing_kept]


def _as_many(streamed: int) -> bool:
    return streamed >= _CPU_SLOTS


def _rings_of(kind: DeviceKind, streamed: int, *, captured: bool) -> list[Ring]:
    wanted: tuple[int, ...] = (_CPU_SLOTS,) if kind == "cpu" else _CUDA_SLOTS[:1]
    if captured:
        wanted = tuple(each for each in _CUDA_SLOTS if streamed % each == 0) or wanted
    others = (3, LEAST_SLOTS)
    slots = dict.fromkeys(min(each, streamed) for each in (*wanted, *others))
    least = min(streamed, *wanted)
    return [
        Ring(each, lambda count: True, scarce=each < least or each not in (*wanted, streamed))
        for each in slots
    ]


def _divided_by(slots: int) -> Callable[[int], bool]:
    return lambda count: count > 0 and count % slots == 0


@dataclass(frozen=True, slots=True)
class Staging:
    """Pinned buffers between disk and accelerator, and the layers that they are for.

    Parameters
    ----------
    most_host
        Layers in host memory, of which the buffers take a share.
    most_disk
        Layers on disk.
    """

    slots: int
    most_host: int
    most_disk: int


def stagings_for(layers: int, *, asked_host: int | None) -> list[Staging]:
    """Return the buffers that may be taken, the most first.

    One for every three layers in host memory, two at the least and six at the most; or one for
    each layer on disk.

    Parameters
    ----------
    layers
        Of the model.
    asked_host
        The layers in host memory where a person set their number; any buffers go with them.
    """
    found = []
    for slots in range(_STAGING_SLOTS, 0, -1):
        enough = asked_host is not None or slots == _STAGING_SLOTS
        if slots >= LEAST_SLOTS:
            most_host = layers if enough else _HOST_LAYERS_A_BUFFER * slots
            found.append(Staging(slots, most_host, layers))
        if slots < _STAGING_SLOTS:
            found.append(Staging(slots, layers, slots))
    return found


def packs(sizes: WeightSizes, dtype: DType, kind: DeviceKind) -> bool:
    """Whether layers in host memory beside an accelerator may be held packed.

    Quantized ones take less as they are stored.
    """
    plain = not sizes.stored_slot_bytes(range(len(sizes.layer_bytes)))
    return kind == "cuda" and dtype == "bfloat16" and plain


def buffers_of(sizes: WeightSizes) -> StreamingPlan:
    """What streaming takes for any layer, without slots: room for its experts."""
    slot_bytes = max(sizes.dense_bytes, default=0)
    stored_slot_bytes = sizes.stored_slot_bytes(range(len(sizes.layer_bytes)))
    largest = max(sizes.expert_bytes, default=0)
    if not sizes.experts or not largest:
        return StreamingPlan(slot_bytes=slot_bytes, stored_slot_bytes=stored_slot_bytes)
    slots = min(_COMPACT_TOKENS * sizes.active_experts, sizes.experts)
    room_bytes = largest + _room_bytes(sizes.expert_bytes, sizes.experts, slots)
    if sizes.quantized_experts:
        # They come as they are stored, and are expanded from there.
        room_bytes += held_compact_bytes(sizes, slots)
    return StreamingPlan(
        slot_bytes=slot_bytes,
        stored_slot_bytes=stored_slot_bytes,
        expert_streaming=True,
        expert_slots=slots,
        expert_room_bytes=room_bytes,
    )


def held_compact_bytes(sizes: WeightSizes, slots: int) -> int:
    """Bytes of a room for that many experts of any layer, as they are held and moved."""
    return _room_bytes(sizes.held_experts, sizes.experts, slots)


def _room_bytes(layer_bytes: Sequence[int], experts: int, slots: int) -> int:
    return slots * -(-max(layer_bytes, default=0) // max(experts, 1))


def least_layers_bytes(sizes: WeightSizes | None) -> int:
    """Bytes of the fewest buffers through which all layers can stream, or of all if less."""
    if sizes is None:
        return 0
    least = replace(buffers_of(sizes), device_slots=LEAST_SLOTS)
    return min(least.device_bytes, sizes.layers_bytes)


def well_fed_bytes(sizes: WeightSizes, dtype: DType, kind: DeviceKind) -> int:
    """Bytes of the buffers that keep the wire to an accelerator busy, whatever layers stream."""
    slots = _CUDA_SLOTS[0]
    packed = packs(sizes, dtype, kind)
    return replace(buffers_of(sizes), device_slots=slots, packed=packed).device_bytes
