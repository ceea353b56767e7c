"""Counts of each kind of layer that fit in a tier."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Total:
    """How many layers are chosen in all: `least` to `most`, as accepted, and `asked` if set."""

    asked: int | None
    least: int
    most: int
    accepts: Callable[[int], bool] = lambda count: True


def choices(
    sums: Sequence[tuple[int, ...]],
    room_bytes: int,
    least: tuple[int, ...],
    most: tuple[int, ...],
    total: Total,
    *,
    fewer: int = 0,
) -> Iterator[tuple[tuple[int, ...], int]]:
    """Choose how many of each kind; of the last kind as many as fit.

    Parameters
    ----------
    sums
        For each kind, the bytes of 0, 1, ... of it.
    least, most
        Bounds for each kind.
    total
        Bounds for all of them together.
    fewer
        Choose so many smaller counts of the last kind too.

    Yields
    ------
    tuple
        Counts for each kind, and their bytes.
    """
    last = len(sums) - 1
    fewest, utmost = total.least, total.most
    if total.asked is not None:
        fewest, utmost = max(fewest, total.asked), min(utmost, total.asked)

    def choose(
        chosen: tuple[int, ...], count: int, used_bytes: int
    ) -> Iterator[tuple[tuple[int, ...], int]]:
        place = len(chosen)
        of_kind, low = sums[place], least[place]
        high = min(bisect_right(of_kind, room_bytes - used_bytes) - 1, most[place])
        high = min(high, utmost - count)
        if place < last:
            for some in range(high, low - 1, -1):
                yield from choose((*chosen, some), count + some, used_bytes + of_kind[some])
            return
        more = fewer
        for some in range(high, max(low, fewest - count) - 1, -1):
            if total.accepts(count + some):
                yield (*chosen, some), used_bytes + of_kind[some]
                if not more:
                    return
                more -= 1

    return choose((), 0, 0)
