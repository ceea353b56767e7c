"""A cache of hot experts that kernels find through a table of addresses.

A pass visits the layers in a cycle, for which the least recently used expert is the worst one to
drop: it is the next one wanted. So the cache keeps those with the most uses, of which old ones
weigh less, and replaces one only for another that is clearly more wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ollm_widgets.weights.experts.shelf import LOYALTY, Shelf
from ollm_widgets.weights.experts.slots import device_address
from ollm_widgets.weights.experts.sources import ExpertSource, HostExperts
from ollm_widgets.weights.experts.traffic import ExpertTraffic


class AddressedCache:
    """Hot experts on the computing device, changed only between steps.

    Parameters
    ----------
    sources
        Experts in host memory that the device can address, one a layer.
    capacity_bytes
        At most so many bytes of experts are held on the device; 0 holds none.
    device
        Where the cache is and its tables are.
    decay
        What a use counts for after one `rebalance`, after two its square, and so on.

    Raises
    ------
    ValueError
        If the device cannot address one of the sources.
    """

    def __init__(
        self,
        sources: Sequence[HostExperts],
        capacity_bytes: int,
        device: torch.device,
        decay: float = 0.8,
    ) -> None:
        self._sources = list(sources)
        self._decay = decay
        self._shelf = Shelf(sources, capacity_bytes, device)
        layers = len(self._sources)
        most = max((source.experts for source in sources), default=0)
        tensors = max((len(source.tensors) for source in sources), default=0)
        # An odd number of experts must not take the alignment of the next layer's table away.
        width = -(-most // 4) * 4
        self._home = torch.zeros(layers, tensors, width, dtype=torch.int64)
        for layer, source in enumerate(self._sources):
            for number, (name, stacked) in enumerate(source.stacked.items()):
                base = device_address(stacked, device)
                if base is None:
                    raise ValueError(f"Kernels on {device} cannot address {name} in host memory.")
                row_bytes = source.tensors[number].row_bytes
                self._home[layer, number] = base + torch.arange(width) * row_bytes
        self._addresses = self._home.clone()
        self._table = self._home.to(device, copy=True)
        self._usage = torch.zeros(layers, width, dtype=torch.int32, device=device)
        # One more for numbers that stand for no expert.
        self._seen = torch.zeros(layers, width + 1, dtype=torch.float32, device=device)
        self._scores = torch.zeros(layers, width, dtype=torch.float64)
        self._cached = torch.zeros(layers, width, dtype=torch.bool)
        self._traffic = ExpertTraffic()

    @property
    def device_bytes(self) -> int:
        """Bytes of the cached experts and the tables."""
        tables = self._table, self._usage, self._seen, self._shelf.buffer
        return sum(each.numel() * each.element_size() for each in tables)

    @property
    def capacity(self) -> int:
        """Experts that fit."""
        return self._shelf.slots

    def holds(self, source: ExpertSource) -> bool:
        """Whether it is a layer's source of this cache."""
        return any(each is source for each in self._sources)

    def layer_of(self, source: ExpertSource) -> int:
        """The number of a layer's source in this cache."""
        return next(n for n, each in enumerate(self._sources) if each is source)

    def table(self, layer: int) -> torch.Tensor:
        """int64 ``[tensors, experts]`` on the device: where each part of each expert lies."""
        source = self._sources[layer]
        return self._table[layer, : len(source.tensors), : source.experts]

    def usage(self, layer: int) -> torch.Tensor:
        """int32 ``[experts]`` on the device: uses since the last `rebalance`, by the kernels."""
        return self._usage[layer, : self._sources[layer].experts]

    def seen(self, layer: int) -> torch.Tensor:
        """float32 ``[experts + 1]`` on the device: what prompts add to the counts."""
        return self._seen[layer, : self._sources[layer].experts + 1]

    def rebalance(self, at_most: int | None = None) -> int:
        """Bring the most used experts into the cache.

        Call it between steps, on the stream that computes, and not inside a captured graph; it
        waits for the counts. Graphs that were captured before go on with the new addresses.

        Parameters
        ----------
        at_most
            Experts to bring now; None for as many as are wanted.

        Returns
        -------
        int
            How many came.
        """
        self._count()
        if not self.capacity:
            return 0
        drop, add = self._changes(at_most)
        shelf = self._shelf
        for layer, expert in drop:
            self._cached[layer, expert] = False
            shelf.free.append(shelf.slot_of.pop((layer, expert)))
            self._addresses[layer, :, expert] = self._home[layer, :, expert]
        for layer, expert in add:
            slot = shelf.free.pop()
            shelf.slot_of[layer, expert] = slot
            self._cached[layer, expert] = True
            self._bring(layer, expert, slot)
        if add:
            self._table.copy_(self._addresses)
        return len(add)

    def traffic(self) -> ExpertTraffic:
        """What was wanted and moved up to now; waits for the device."""
        self._count()
        return self._traffic

    def close(self) -> None:
        """Free the cache and its tables; nothing may use them any more."""
        self._shelf.close()
        self._table = self._usage = self._seen = self._table.new_empty(0)
        self._sources = []

    def _count(self) -> None:
        """Move the device's counts into the scores."""
        if not self._sources:
            return
        usage = self._usage.cpu().to(torch.int64)
        seen = self._seen.cpu()[:, :-1].to(torch.float64)
        for layer, source in enumerate(self._sources):
            seen[layer, source.experts :] = 0
        self._usage.zero_()
        self._seen.zero_()
        self._scores += usage + seen
        hits = (usage * self._cached).sum(dim=1)
        misses = usage.sum(dim=1) - hits
        moved = sum(
            count * sum(tensor.row_bytes for tensor in source.tensors)
            for count, source in zip(misses.tolist(), self._sources, strict=True)
        )
        self._traffic += ExpertTraffic(int(hits.sum()), int(misses.sum()), moved)

    def _changes(self, at_most: int | None) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Which experts to drop and which to bring, the most wanted first."""
        held = self._scores * torch.where(self._cached, LOYALTY, 1.0)
        self._scores *= self._decay
        best = held.flatten().topk(self.capacity)
        wanted = torch.zeros_like(self._cached)
        wanted.view(-1)[best.indices] = best.values > 0
        add = _by_score(wanted & ~self._cached, -held)[:at_most]
        # Of those no longer wanted the least used go first, and only as many as room is needed.
        drop = _by_score(self._cached & ~wanted, held)
        return drop[: max(0, len(add) - len(self._shelf.free))], add

    def _bring(self, layer: int, expert: int, slot: int) -> None:
        source = self._sources[layer]
        views = self._shelf.views(slot, source)
        for number, tensor in enumerate(source.tensors):
            view = views[tensor.name]
            view[0].copy_(source.stacked[tensor.name][expert], non_blocking=True)
            self._addresses[layer, number, expert] = view.data_ptr()
        moved = sum(tensor.row_bytes for tensor in source.tensors)
        self._traffic += ExpertTraffic(moved_bytes=moved)


def _by_score(mask: torch.Tensor, order: torch.Tensor) -> list[tuple[int, int]]:
    """Layer and expert where the mask is set, ascending in `order`."""
    places = mask.nonzero()
    ranked = places[order[mask].argsort(stable=True)]
    return [(layer, expert) for layer, expert in ranked.tolist()]
