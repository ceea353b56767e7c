"""How many layers of each kind stay on the device, and how many of the others in host memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ollm_widgets.planning.search.choices import Total, choices
from ollm_widgets.planning.search.kinds import Kind
from ollm_widgets.planning.search.objective import Score
from ollm_widgets.planning.search.pricing import Price
from ollm_widgets.planning.weights import WeightSizes

# For each kind: layers that stay on the device, and layers on disk.
Split: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a split must keep to.

    Parameters
    ----------
    device_bytes, host_bytes
        For layers on the device beside its buffers, and for those in host memory beside it.
    streams
        Whether a ring takes that many streamed layers.
    from_disk
        Whether layers may be left on disk. On a CPU all that does not stay is there.
    slot_bytes
        A layer that takes more in a slot must stay.
    kept, host
        Layers that must be on the device and in host memory; None leaves it open.
    most_host, most_disk
        The most layers in host memory and on disk that these buffers suffice for.
    caches_experts
        Whether hot experts get the room that is left.
    spares_page_cache
        They get no more of it than leaves the page cache room for what is on disk.
    staging_slots
        Buffers between disk and accelerator.
    """

    device_bytes: int
    host_bytes: int
    streams: Callable[[int], bool]
    from_disk: bool
    slot_bytes: int
    kept: int | None = None
    host: int | None = None
    most_host: int = 1 << 30
    most_disk: int = 1 << 30
    caches_experts: bool = True
    spares_page_cache: bool = False
    staging_slots: int = 0
    page_cache_bytes: int = 0
    preference: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """The best split so far."""

    score: Score
    split: Split


@dataclass(slots=True)
class Splits:
    """Looks at every split of the kinds that could be the best.

    A layer in a faster tier never makes a pass slower, if it takes no room from hot experts. So of
    the last kind as many stay as fit beside a choice of the others, and only those choices are
    enumerated: first of layers on the device, then for each of these, the most promising first
    and until no other can be better, of layers in host memory. That is exact. Where every byte
    that is kept saves as much, as in most models, no choice of the first dominates another, and
    there is nothing to prune among them.
    """

    sizes: WeightSizes
    kinds: Sequence[Kind]
    price: Price
    packed: bool
    _device: list[tuple[int, ...]] = field(init=False)
    _host: list[tuple[int, ...]] = field(init=False)
    _experts: list[tuple[int, ...]] = field(init=False)
    _stored: list[tuple[int, ...]] = field(init=False)
    _total: int = field(init=False)
    _largest_in_host: int = field(init=False)
    _by_worth: list[int] = field(init=False)
    _by_wire: list[int] = field(init=False)
    _host_share: float = field(init=False)
    _fewer_held: int = field(init=False)

    def __post_init__(self) -> None:
        sizes, kinds = self.sizes, self.kinds
        layers = len(sizes.layer_bytes)
        experts = sizes.held_experts or (0,) * layers
        in_host = sizes.host_layer_bytes(packed=self.packed)
        self._device = [kind.first_bytes(sizes.layer_bytes) for kind in kinds]
        self._host = [kind.last_bytes(in_host) for kind in kinds]
        self._experts = [kind.last_bytes(experts) for kind in kinds]
        stored = sizes.stored_layer_bytes or sizes.layer_bytes
        self._stored = [kind.last_bytes(stored) for kind in kinds]
        self._total = layers
        self._largest_in_host = max(in_host)
        # A layer that takes less as a file than in memory may leave the page cache too little.
        expands = any(held > size for held, size in zip(in_host, stored, strict=True))
        self._fewer_held = layers if expands else 0
        pairs = zip(in_host, sizes.layer_bytes, strict=True)
        self._host_share = max(held / max(raw, 1) for held, raw in pairs)
        self._by_wire = sorted(
            range(len(kinds)),
            key=lambda place: self.price.wire_bytes_spared(place) / max(self._device[place][1], 1),
            reverse=True,
        )
        self._by_worth = sorted(
            range(len(kinds)),
            key=lambda place: -self.price.from_disk_bytes(place) / max(self._host[place][1], 1),
        )

    def best(self, limits: Limits, best: Found | None = None) -> Found | None:
        """Return the best split within limits, or `best` where none is better."""
        if self.price.on_cores:
            return self._best_on_cpu(limits, best)
        if limits.from_disk:
            return self._best_from_disk(limits, best)
        none = (0,) * len(self.kinds)
        if self._held_beside(limits) > limits.host_bytes:
            return best
        if best is not None and self._least_over_wire(limits) > best.score.seconds:
            return best
        for kept, used_bytes in self._kept(limits):
            in_host = self._free(kept)
            as_asked = limits.host in (None, sum(in_host))
            if as_asked and self._held(in_host) <= limits.host_bytes:
                best = self.better(limits, kept, none, used_bytes, best)
        return best

    def _best_on_cpu(self, limits: Limits, best: Found | None) -> Found | None:
        none = (0,) * len(self.kinds)
        for kept, used_bytes in self._kept(limits):
            best = self.better(limits, kept, none, used_bytes, best)
            free = self._free(kept)
            taken = used_bytes + self._hot_bytes(limits, free, used_bytes)
            if limits.kept is not None or self._cached(limits, free, taken):
                continue
            # With fewer layers in memory the page cache may hold all the others.
            for fewer in range(kept[-1] - 1, -1, -1):
                less = (*kept[:-1], fewer)
                used = used_bytes - self._device[-1][kept[-1]] + self._device[-1][fewer]
                free = self._free(less)
                taken = used + self._hot_bytes(limits, free, used)
                if limits.streams(sum(free)) and self._cached(limits, free, taken):
                    best = self.better(limits, less, none, used, best)
                    break
        return best

    def _best_from_disk(self, limits: Limits, best: Found | None) -> Found | None:
        least_held = limits.host_bytes + limits.most_disk * self._largest_in_host
        if self._held_beside(limits) > least_held:
            return best
        found = self._kept(limits)
        promising = sorted((self._bound(limits, kept, used), kept, used) for kept, used in found)
        for bound, kept, used_bytes in promising:
            if best is not None and bound > best.score[:2]:
                break
            free = self._free(kept)
            most = min(limits.most_host, sum(free) - 1)
            least = sum(free) - limits.most_disk
            holds = Total(limits.host, least, most)
            for in_host, _ in choices(self._host, limits.host_bytes, (0,) * len(free), free, holds):
                on_disk = tuple(count - some for count, some in zip(free, in_host, strict=True))
                best = self.better(limits, kept, on_disk, used_bytes, best)
        return best

    def _kept(self, limits: Limits) -> Iterator[tuple[tuple[int, ...], int]]:
        """Choose layers for the device; those that no slot takes are always among them."""
        least = tuple(
            len(kind) if kind.slot_bytes > limits.slot_bytes else 0 for kind in self.kinds
        )
        asked, most = limits.kept, self._total - (limits.host or 0)
        if asked is None and limits.host is not None and not limits.from_disk:
            asked = most
        all_ = tuple(len(kind) for kind in self.kinds)
        holds = Total(asked, 0, most, lambda count: limits.streams(self._total - count))
        fewer = self.fewer_of(limits)
        return choices(self._device, limits.device_bytes, least, all_, holds, fewer=fewer)

    def fewer_of(self, limits: Limits) -> int:
        """How many smaller counts than the largest that fits may be better than it."""
        if limits.caches_experts and self.price.with_cache is not None:
            return self._total  # what a layer takes from hot experts may be worth more there
        return 0

    def _free(self, kept: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(len(kind) - count for kind, count in zip(self.kinds, kept, strict=True))

    def _held(self, in_host: tuple[int, ...]) -> int:
        return sum(sums[count] for sums, count in zip(self._host, in_host, strict=True))

    def _hot_bytes(self, limits: Limits, free: tuple[int, ...], used_bytes: int) -> int:
        """Bytes that hot experts get of those that stream."""
        if not limits.caches_experts:
            return 0
        hot = min(limits.device_bytes - used_bytes, self._in_experts(free))
        if limits.spares_page_cache:
            stored = sum(sums[count] for sums, count in zip(self._stored, free, strict=True))
            hot = min(hot, max(limits.page_cache_bytes - used_bytes - stored, 0))
        return hot

    def _in_experts(self, free: tuple[int, ...]) -> int:
        return sum(sums[count] for sums, count in zip(self._experts, free, strict=True))

    def _hit_share(self, limits: Limits, free: tuple[int, ...], used_bytes: int) -> float:
        hot = self._hot_bytes(limits, free, used_bytes)
        return hot / self._in_experts(free) if hot else 0.0

    def _held_beside(self, limits: Limits) -> float:
        """Bytes of layers in host memory, at the least, if the device holds as many as it can."""
        all_bytes = sum(sums[-1] for sums in self._host)
        return all_bytes - limits.device_bytes * self._host_share

    def _cached(self, limits: Limits, on_disk: tuple[int, ...], taken_bytes: int) -> bool:
        """Whether host memory beside what is taken of it holds the files of these layers."""
        stored = sum(sums[count] for sums, count in zip(self._stored, on_disk, strict=True))
        return stored <= limits.page_cache_bytes - taken_bytes

    def better(
        self,
        limits: Limits,
        kept: tuple[int, ...],
        on_disk: tuple[int, ...],
        used_bytes: int,
        best: Found | None,
        *,
        held_bytes: int | None = None,
        split: Split | None = None,
    ) -> Found | None:
        """Return a split if it is better than the best so far, else that.

        Parameters
        ----------
        used_bytes, held_bytes
            Of the layers on the device and in host memory; None where the latter are the last
            of their kinds.
        split
            What is found, if it is not the counts themselves.
        """
        free = self._free(kept)
        if self.price.on_cores:
            hot = self._hot_bytes(limits, free, used_bytes)
            cached = self._cached(limits, free, used_bytes + hot)
        else:
            if held_bytes is None:
                pairs = zip(free, on_disk, strict=True)
                held_bytes = self._held(tuple(count - some for count, some in pairs))
            cached = limits.from_disk and self._cached(limits, on_disk, held_bytes)
        hits = self._hit_share(limits, free, used_bytes)
        if best is not None:
            least = self.price.least(kept, on_disk, hit_share=hits, page_cached=cached)
            if least > best.score[:2]:
                return best
        work = self.price.work(kept, on_disk, hit_share=hits, page_cached=cached)
        score = Score(
            self.price.seconds(work),
            work.disk_bytes + work.page_cache_bytes,
            work.wire_bytes,
            sum(free),
            limits.preference,
        )
        if best is not None and score >= best.score:
            return best
        return Found(score, split or (kept, on_disk))

    def _bound(self, limits: Limits, kept: tuple[int, ...], used_bytes: int) -> tuple[float, float]:
        """Return what no split with these layers on the device beats: seconds, bytes from files.

        As if layers could be cut to fill host memory, first those that spare the most for their
        bytes (Dantzig 1957).
        """
        free = self._free(kept)
        room_bytes = float(min(limits.host_bytes, limits.most_host * self._largest_in_host))
        on_disk = [0.0] * len(free)
        for place in self._by_worth:
            if free[place]:
                each = self._host[place][free[place]] / free[place]
                fitting = min(room_bytes / max(each, 1), free[place])
                room_bytes -= fitting * each
                on_disk[place] = free[place] - fitting
        cached = self._may_be_cached(limits, free)
        hits = self._hit_share(limits, free, used_bytes)
        return self.price.least(kept, on_disk, hit_share=hits, page_cached=cached)

    def _least_over_wire(self, limits: Limits) -> float:
        """Seconds that no split beats, as if layers could be cut to fill the device."""
        room_bytes = float(limits.device_bytes)
        kept = [0.0] * len(self.kinds)
        for place in self._by_wire:
            count = len(self.kinds[place])
            each = self._device[place][count] / count
            kept[place] = min(room_bytes / max(each, 1), count)
            room_bytes -= kept[place] * each
        none = [0.0] * len(kept)
        return self.price.least(kept, none, hit_share=1.0, page_cached=False)[0]

    def _may_be_cached(self, limits: Limits, free: tuple[int, ...]) -> bool:
        """Whether the page cache may hold what is on disk, for some layers in host memory."""
        needed = sum(
            min(stored[count], held[count])
            for stored, held, count in zip(self._stored, self._host, free, strict=True)
        )
        return needed <= limits.page_cache_bytes
