"""Splits of the form that a person asked for: layers in host memory follow each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate

from ollm_widgets.planning.ids import OffloadPolicy
from ollm_widgets.planning.placement import first_of_host
from ollm_widgets.planning.search.splits import Found, Limits, Splits

# Beside a band, so many smaller counts on the device are tried: hot experts may be worth more.
_MOST_FEWER = 12


class Bands:
    """Looks at every band of layers in host memory; of the others the first stay on the device.

    Parameters
    ----------
    splits
        Knows the layers and what a pass costs.
    policy
        Where the band is.
    """

    def __init__(self, splits: Splits, policy: OffloadPolicy) -> None:
        self._splits = splits
        sizes = splits.sizes
        self._total = len(sizes.layer_bytes)
        self._starts = [
            first_of_host(self._total, count, policy) for count in range(self._total + 1)
        ]
        raw = list(accumulate(sizes.layer_bytes, initial=0))
        in_host = list(accumulate(sizes.host_layer_bytes(packed=splits.packed), initial=0))
        pairs = list(enumerate(self._starts))
        self._raw = [raw[start + count] - raw[start] for count, start in pairs]
        self._host = [in_host[start + count] - in_host[start] for count, start in pairs]
        # Bytes of the first layers outside of each band.
        self._outside = [
            raw[: start + 1] + [size - self._raw[count] for size in raw[start + count + 1 :]]
            for count, start in pairs
        ]
        member = {index: place for place, kind in enumerate(splits.kinds) for index in kind.indices}
        self._members = [
            list(accumulate((member[index] == place for index in range(self._total)), initial=0))
            for place in range(len(splits.kinds))
        ]

    def best(self, limits: Limits, best: Found | None = None) -> Found | None:
        """Return the best band within limits, or `best`; its split is two counts of layers.

        The first is of layers on the device, the second of layers on disk.
        """
        for kept, in_host, used_bytes, held_bytes in self._choices(limits):
            on_cpu = self._splits.price.on_cores
            band = self._of_kinds(self._starts[in_host], self._starts[in_host] + in_host)
            staying = band if on_cpu else self._first_outside(kept, in_host)
            pairs = zip(self._splits.kinds, staying, band, strict=True)
            on_disk = tuple(
                0 if on_cpu else len(kind) - stays - held for kind, stays, held in pairs
            )
            split = ((in_host if on_cpu else kept,), (self._total - kept - in_host,))
            best = self._splits.better(
                limits,
                staying,
                on_disk,
                used_bytes,
                best,
                held_bytes=held_bytes,
                split=split,
            )
        return best

    def _choices(self, limits: Limits) -> Iterator[tuple[int, int, int, int]]:
        """Yield layers on the device and in host memory, and the bytes of both."""
        on_cpu = self._splits.price.on_cores
        dense = self._splits.sizes.dense_bytes
        # Layers that no slot takes, in order: they must stay.
        large = [index for index, size in enumerate(dense) if size > limits.slot_bytes]
        for in_host in self._counts(limits):
            held_bytes, start = self._host[in_host], self._starts[in_host]
            first = bisect_left(large, start)
            inside = bisect_left(large, start + in_host) - first
            if on_cpu:
                fits = in_host < self._total and self._raw[in_host] <= limits.device_bytes
                stays = inside == len(large)
                if fits and stays and limits.streams(self._total - in_host):
                    yield 0, in_host, self._raw[in_host], 0
                continue
            if held_bytes > limits.host_bytes or in_host > limits.most_host:
                return
            if inside:
                continue
            staying = large[-1] + 1 if large else 0
            if staying > start:
                staying -= in_host
            outside = self._outside[in_host]
            most = bisect_right(outside, limits.device_bytes) - 1
            if not limits.from_disk:
                kept = self._total - in_host
                if (
                    staying <= kept <= most
                    and limits.kept in (None, kept)
                    and limits.streams(in_host)
                ):
                    yield kept, in_host, outside[kept], held_bytes
                continue
            most = min(most, self._total - in_host - 1)
            least = max(self._total - in_host - limits.most_disk, staying)
            if limits.kept is not None:
                least, most = max(least, limits.kept), min(most, limits.kept)
            more = min(self._splits.fewer_of(limits), _MOST_FEWER)
            for kept in range(most, least - 1, -1):
                if limits.streams(self._total - kept):
                    yield kept, in_host, outside[kept], held_bytes
                    if not more:
                        break
                    more -= 1

    def _counts(self, limits: Limits) -> range:
        """Counts of layers that the band may have."""
        asked = limits.kept if self._splits.price.on_cores else limits.host
        if asked is None and limits.kept is not None and not limits.from_disk:
            asked = self._total - limits.kept
        return range(self._total + 1) if asked is None else range(asked, asked + 1)

    def _of_kinds(self, start: int, end: int) -> tuple[int, ...]:
        return tuple(sums[end] - sums[start] for sums in self._members)

    def _first_outside(self, kept: int, in_host: int) -> tuple[int, ...]:
        start = self._starts[in_host]
        before = self._of_kinds(0, min(kept, start))
        after = self._of_kinds(start + in_host, start + in_host + max(kept - start, 0))
        return tuple(one + other for one, other in zip(before, after, strict=True))
