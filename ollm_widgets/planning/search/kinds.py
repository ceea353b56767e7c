"""Layers of one size are interchangeable: how many of each kind a model has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from ollm_widgets.planning.weights import WeightSizes

# Of up to so many ways to keep layers of all kinds but one, each is looked at; where layers may be
# on disk, with each of as many ways to fill host memory. Twelve layers of twelve sizes have 2,048.
_FEW_LAYERS, _MOST_WAYS_OF_FEW = 12, 2048
MOST_WAYS, MOST_WAYS_FROM_DISK = 450, 120
# Where there are more, what is left out hardly matters, so that few will do.
_ENOUGH_WAYS = 40


@dataclass(frozen=True, slots=True)
class Kind:
    """Layers of one size, or where there are too many sizes, of nearly one.

    Those that stay on the device are the first of them, those in host memory the last.

    Parameters
    ----------
    indices
        The layers; those of nearly one size by falling size, so that each count of them is one
        choice, whose bytes are known exactly.
    slot_bytes
        What the largest of them takes in a slot.
    """

    indices: tuple[int, ...]
    slot_bytes: int

    def __len__(self) -> int:
        return len(self.indices)

    def first_bytes(self, each: Sequence[int]) -> tuple[int, ...]:
        """Bytes of the first 0, 1, ... of them."""
        return tuple(accumulate((each[index] for index in self.indices), initial=0))

    def last_bytes(self, each: Sequence[int]) -> tuple[int, ...]:
        """Bytes of the last 0, 1, ... of them."""
        return tuple(accumulate((each[index] for index in self.indices[::-1]), initial=0))


def kinds_of(
    sizes: WeightSizes, *, most_ways: int = MOST_WAYS, last_first: bool = False
) -> tuple[Kind, ...]:
    """Sort the layers into kinds, that with the most layers last.

    Equal layers are one kind. Where that leaves more than `most_ways` to choose (2,048 for a
    model of up to twelve layers), the two kinds that are nearest in size are taken as one, over
    and over until a few dozen are left. That leaves choices out but falsifies no size, and never
    depends on what room there is.

    Parameters
    ----------
    last_first
        Count equal layers from the end of the model.
    """
    layers = range(len(sizes.layer_bytes))
    stored = sizes.stored_layer_bytes or sizes.layer_bytes
    experts = sizes.expert_bytes or (0,) * len(layers)
    held, held_experts = sizes.held_layers, sizes.held_experts or experts
    groups: dict[tuple[bool, int, int, int, int, int], list[int]] = {}
    for index in reversed(layers) if last_first else layers:
        size, in_experts = sizes.layer_bytes[index], experts[index]
        stored_as = (stored[index], held[index], held_experts[index])
        alike = (in_experts > 0, size, in_experts, *stored_as)
        groups.setdefault(alike, []).append(index)
    found = [group for _, group in sorted(groups.items(), reverse=True)]
    most = _MOST_WAYS_OF_FEW if len(layers) <= _FEW_LAYERS else most_ways
    if _ways(found) > most:
        most = min(most, _ENOUGH_WAYS)

    def distance(place: int) -> tuple[bool, int]:
        before, after = found[place - 1][-1], found[place][0]
        mixed = experts[before] > 0 and experts[after] == 0
        return mixed, sizes.layer_bytes[before] - sizes.layer_bytes[after]

    while _ways(found) > most and len(found) > 2:
        nearest = min(range(1, len(found)), key=distance)
        found[nearest - 1 : nearest + 1] = [found[nearest - 1] + found[nearest]]
    dense = sizes.dense_bytes
    kinds = [Kind(tuple(group), max(dense[index] for index in group)) for group in found]
    return tuple(sorted(kinds, key=len))


def _ways(groups: Sequence[Sequence[int]]) -> int:
    """Ways to keep some of each group but the largest, of which as many are kept as fit."""
    return prod(sorted(len(group) + 1 for group in groups)[:-1])
