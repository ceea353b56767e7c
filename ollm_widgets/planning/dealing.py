"""Which layers compute on which of several accelerators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ollm_widgets.planning.ids import OffloadPolicy
from ollm_widgets.planning.placement import place_layers

# The layers of each device, in the order of a pass.
Hands: TypeAlias = tuple[tuple[int, ...], ...]


def cut_in_runs(held_bytes: Sequence[int], rooms: Sequence[int]) -> Hands | None:
    """Cut the layers into one run a device, so that each has the same room left.

    Parameters
    ----------
    held_bytes
        What each layer takes on the device that keeps it.
    rooms
        Bytes of each device.

    Returns
    -------
    Hands or None
        None where they do not fit.
    """
    runs = _filled(held_bytes, rooms)
    if runs is None:
        return None
    low, high = 0, max(rooms)
    while low < high:
        middle = (low + high + 1) // 2
        tighter = _filled(held_bytes, [room - middle for room in rooms])
        if tighter is None:
            high = middle - 1
        else:
            low, runs = middle, tighter
    return runs


def least_streamed(layers: int, held_bytes: int, kv_bytes: int, rooms: Sequence[int]) -> int:
    """Return how many layers must stream at the least, where each device takes as many of them.

    Parameters
    ----------
    held_bytes, kv_bytes
        What one layer takes where it stays, and where it streams.
    rooms
        Bytes of each device beside the buffers through which layers stream.
    """
    for streamed in range(layers):
        passing = -(-streamed // len(rooms)) * kv_bytes
        kept = sum(max(room - passing, 0) // max(held_bytes, 1) for room in rooms)
        if kept + streamed >= layers:
            return streamed
    return layers


def kept_by_each(kept: int, held_bytes: int, rooms: Sequence[int]) -> tuple[int, ...]:
    """Share out the layers that stay: each goes where most room is left."""
    left, counts = list(rooms), [0] * len(rooms)
    for _ in range(kept):
        roomiest = max(range(len(left)), key=left.__getitem__)
        counts[roomiest] += 1
        left[roomiest] -= held_bytes
    return tuple(counts)


def deal(layer_bytes: Sequence[int], kept: Sequence[int], policy: OffloadPolicy) -> Hands:
    """Give each device a run of layers that stay, and the others in turn.

    Layers that stream must take turns: a device whose layers all follow each other fills its few
    slots while the others compute, and then its wire is idle until its own turn comes. Where
    layers stay a pass crosses between devices once a run.

    Parameters
    ----------
    layer_bytes
        What each layer moves when it streams; each wire gets as many bytes.
    kept
        How many layers stay on each device.
    policy
        Which layers are the ones that stream.
    """
    passing = len(layer_bytes) - sum(kept)
    tiers = place_layers(len(layer_bytes), sum(kept), passing, policy).tiers
    owners = [device for device, count in enumerate(kept) for _ in range(count)]
    hands: list[list[int]] = [[] for _ in kept]
    moved = [0] * len(kept)
    for index, tier in enumerate(tiers):
        if tier == "accelerator":
            hands[owners.pop(0)].append(index)
        else:
            device = min(range(len(moved)), key=moved.__getitem__)
            moved[device] += layer_bytes[index]
            hands[device].append(index)
    return tuple(tuple(hand) for hand in hands)


def share_out(count: int, limits: Sequence[int]) -> tuple[int, ...]:
    """Share out a count in proportion to limits, which no part exceeds."""
    parts = [0] * len(limits)
    for _ in range(min(count, sum(limits))):
        fullest = max(range(len(limits)), key=lambda part: limits[part] - parts[part])
        parts[fullest] += 1
    return tuple(parts)


def _filled(held_bytes: Sequence[int], rooms: Sequence[int]) -> Hands | None:
    """Fill each device in turn; None where layers are left over."""
    runs: list[tuple[int, ...]] = []
    index = 0
    for room in rooms:
        first, left = index, room
        while index < len(held_bytes) and held_bytes[index] <= left:
            left -= held_bytes[index]
            index += 1
        runs.append(tuple(range(first, index)))
    return tuple(runs) if index == len(held_bytes) else None
