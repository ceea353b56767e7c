"""What a pass costs, for any number of layers of each kind in each tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeAlias

from ollm_widgets.planning.ids import DeviceKind, LayerTier
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.search.kinds import Kind
from ollm_widgets.planning.speed.step import StepWork, step_seconds
from ollm_widgets.planning.speed.work import step_work
from ollm_widgets.planning.weights import WeightSizes

_COUNTED = tuple(each.name for each in fields(StepWork) if each.name != "on_cores")
_WIRE = _COUNTED.index("wire_bytes")
_DISK, _CACHED = _COUNTED.index("disk_bytes"), _COUNTED.index("page_cache_bytes")

# Layers of each kind in a tier; for a bound, parts of layers.
Counts: TypeAlias = Sequence[float]


@dataclass(frozen=True, slots=True)
class _Linear:
    """The work of a pass, where it is a sum over layers.

    Parameters
    ----------
    base
        With all layers in the middle tier: host memory beside an accelerator, on a CPU the disk.
    kept, on_disk
        What changes with each layer of a kind that is on the device, or on disk instead.
    """

    base: tuple[int, ...]
    kept: tuple[tuple[float, ...], ...]
    on_disk: tuple[tuple[float, ...], ...]

    def of(self, kept: Counts, on_disk: Counts) -> list[float]:
        total = [float(value) for value in self.base]
        for counts, changes in ((kept, self.kept), (on_disk, self.on_disk)):
            for count, change in zip(counts, changes, strict=True):
                if count:
                    for place, value in enumerate(change):
                        if value:
                            total[place] += count * value
        return total


_Pair: TypeAlias = tuple[float, float]


class _Moved(NamedTuple):
    """The bytes over the wire and from files of a `_Linear`."""

    base: _Pair
    kept: tuple[_Pair, ...]
    on_disk: tuple[_Pair, ...]

    def of(self, kept: Counts, on_disk: Counts) -> _Pair:
        wire, files = self.base
        for count, (wire_bytes, file_bytes) in zip(kept, self.kept, strict=True):
            wire += count * wire_bytes
            files += count * file_bytes
        for count, (wire_bytes, file_bytes) in zip(on_disk, self.on_disk, strict=True):
            wire += count * wire_bytes
            files += count * file_bytes
        return wire, files


@dataclass(frozen=True, slots=True)
class Price:
    """Seconds and bytes of a pass for one set of buffers.

    `step_work` is asked for a few placements; those between follow, as all that a layer does is
    added to what the others do. Of experts that stream, the cache of hot ones holds a share, and
    what they move falls in proportion.

    Parameters
    ----------
    without_cache, with_cache
        Without any experts in the cache and with all of them; None where none stream.
    on_cores
        Whether a CPU computes.
    floor_s
        Seconds of a pass in which nothing moves.
    wire_byte_s, disk_byte_s, cached_byte_s
        Seconds of one byte that moves alone.
    """

    speeds: Bandwidth
    without_cache: _Linear
    with_cache: _Linear | None
    on_cores: bool
    _cold: _Moved
    _warm: _Moved | None
    floor_s: float = 0.0
    wire_byte_s: float = 0.0
    disk_byte_s: float = 0.0
    cached_byte_s: float = 0.0

    def work(
        self, kept: Counts, on_disk: Counts, *, hit_share: float = 0.0, page_cached: bool = False
    ) -> StepWork:
        """Return the work of a pass."""
        return self._work(self._total(kept, on_disk, hit_share), page_cached)

    def seconds(self, work: StepWork) -> float:
        """Return what `step_seconds` says."""
        return step_seconds(work, self.speeds)

    def least(
        self, kept: Counts, on_disk: Counts, *, hit_share: float, page_cached: bool
    ) -> tuple[float, float]:
        """Return seconds and bytes from files that a pass does not undercut.

        Of what goes on at the same time only the wire or the files are looked at, and all that
        does not depend on the placement: this is much cheaper to say than `seconds`.
        """
        wire, files = self._cold.of(kept, on_disk)
        if self._warm is not None:
            least_wire, least_files = self._warm.of(kept, on_disk)
            wire += (least_wire - wire) * hit_share
            files += (least_files - files) * hit_share
        # A byte less, as shares of experts are not whole bytes.
        wire, files = max(wire - 1, 0), max(files - 1, 0)
        byte_s = self.cached_byte_s if page_cached else self.disk_byte_s
        return max(self.floor_s, wire * self.wire_byte_s, files * byte_s), files

    def wire_bytes_spared(self, place: int) -> float:
        """What a layer of a kind spares the wire at the least, if it stays on the device."""
        return -(self._warm or self._cold).kept[place][0]

    def from_disk_bytes(self, place: int) -> float:
        """What a layer of a kind reads from files at the least, if it is left on disk."""
        return (self._warm or self._cold).on_disk[place][1]

    def _total(self, kept: Counts, on_disk: Counts, hit_share: float) -> list[float]:
        total = self.without_cache.of(kept, on_disk)
        if hit_share and self.with_cache is not None:
            held = self.with_cache.of(kept, on_disk)
            pairs = zip(total, held, strict=True)
            total = [less + (more - less) * hit_share for less, more in pairs]
        return total

    def _work(self, total: list[float], page_cached: bool) -> StepWork:
        if page_cached:
            total[_DISK], total[_CACHED] = 0.0, total[_DISK]
        counted: dict[str, Any] = dict(zip(_COUNTED, map(round, total), strict=True))
        return StepWork(on_cores=self.on_cores, **counted)


def priced(
    sizes: WeightSizes,
    kinds: Sequence[Kind],
    device_kind: DeviceKind,
    streaming: StreamingPlan,
    speeds: Bandwidth,
) -> Price:
    """Ask `step_work` what layers of each kind do in each tier.

    Parameters
    ----------
    streaming
        The buffers; their sizes do not matter.
    """
    none = replace(streaming, expert_cache_bytes=0)
    held = replace(streaming, expert_cache_bytes=sum(sizes.held_experts))
    by_expert = streaming.expert_streaming and any(sizes.expert_bytes)
    cold = _linear(sizes, kinds, device_kind, none)
    warm = _linear(sizes, kinds, device_kind, held) if by_expert else cold
    on_cores = device_kind == "cpu"
    price = Price(
        speeds,
        cold,
        warm if by_expert else None,
        on_cores,
        _moved(cold),
        _moved(warm) if by_expert else None,
    )
    all_kept = tuple(len(kind) for kind in kinds)
    still = price.work(all_kept, (0,) * len(kinds), hit_share=1.0)

    def byte_s(name: str) -> float:
        alone: dict[str, Any] = {name: 10**12}
        return step_seconds(StepWork(on_cores=on_cores, **alone), speeds) / 10**12

    return replace(
        price,
        floor_s=price.seconds(replace(still, wire_bytes=0, disk_bytes=0)),
        wire_byte_s=byte_s("wire_bytes"),
        disk_byte_s=byte_s("disk_bytes"),
        cached_byte_s=byte_s("page_cache_bytes"),
    )


def _moved(linear: _Linear) -> _Moved:
    def pairs(changes: tuple[tuple[float, ...], ...]) -> tuple[_Pair, ...]:
        return tuple((change[_WIRE], change[_DISK]) for change in changes)

    return _Moved(
        (linear.base[_WIRE], linear.base[_DISK]), pairs(linear.kept), pairs(linear.on_disk)
    )


def _linear(
    sizes: WeightSizes, kinds: Sequence[Kind], device_kind: DeviceKind, streaming: StreamingPlan
) -> _Linear:
    middle: LayerTier = "disk" if device_kind == "cpu" else "host"
    own: LayerTier = "host" if device_kind == "cpu" else "accelerator"
    layers = len(sizes.layer_bytes)

    def asked(indices: Sequence[int], tier: LayerTier) -> tuple[int, ...]:
        tiers = [middle] * layers
        for index in indices:
            tiers[index] = tier
        run = PlannedRun(device_kind, LayerPlacement(tuple(tiers)), streaming)
        work = step_work(sizes, run)
        return tuple(getattr(work, name) for name in _COUNTED)

    base = asked((), middle)

    def changes(tier: LayerTier) -> tuple[tuple[float, ...], ...]:
        if tier == middle:
            return tuple((0.0,) * len(base) for _ in kinds)
        each = []
        for kind in kinds:
            # At least one layer keeps streaming: without any, nothing is left to be added up.
            moved = kind.indices if len(kind) < layers else kind.indices[:-1]
            after = asked(moved, tier)
            pairs = zip(after, base, strict=True)
            each.append(tuple((new - old) / max(len(moved), 1) for new, old in pairs))
        return tuple(each)

    return _Linear(base, changes(own), changes("disk"))
