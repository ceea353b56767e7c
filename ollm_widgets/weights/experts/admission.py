"""A cache of hot experts for a CPU that knows which ones a call wants.

A pass visits the layers in a cycle, for which the least recently used expert is the worst one to
drop: it is the next one wanted. So the cache keeps those with the most uses, of which old ones
weigh less, and replaces one only for another that is clearly more wanted.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import torch

from ollm_widgets.weights.experts.shelf import LOYALTY, Shelf
from ollm_widgets.weights.experts.sources import ExpertSource


class AdmittingCache:
    """A cache for experts whose numbers are known on the CPU; it takes in what was just read.

    Parameters
    ----------
    sources
        One a layer.
    capacity_bytes
        At most so many bytes of experts are held; 0 holds none.
    device
        Where they are held: where they compute.
    half_life
        Uses of any expert after which a use counts for half.
    """

    def __init__(
        self,
        sources: Sequence[ExpertSource],
        capacity_bytes: int,
        device: torch.device,
        half_life: int = 4096,
    ) -> None:
        self._sources = list(sources)
        self._shelf = Shelf(sources, capacity_bytes, device)
        self._scores: dict[tuple[int, int], float] = {}
        # Held experts by the score they had when entered; scores only grow between halvings, so
        # the first entry that is still right is the least used one.
        self._by_use: list[tuple[float, tuple[int, int]]] = []
        self._half_life = half_life
        self._uses = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the cached experts."""
        return self._shelf.buffer.numel()

    @property
    def capacity(self) -> int:
        """Experts that fit."""
        return self._shelf.slots

    def layer_of(self, source: ExpertSource) -> int:
        """The number of a layer's source in this cache."""
        return next(n for n, each in enumerate(self._sources) if each is source)

    def find(self, layer: int, expert: int) -> dict[str, torch.Tensor] | None:
        """Count a use of an expert; its parts, each ``[1, *row_shape]``, if it is held."""
        if not self.capacity:
            return None
        key = layer, expert
        self._scores[key] = self._scores.get(key, 0.0) + 1
        self._uses += 1
        if self._uses >= self._half_life:
            self._uses = 0
            self._scores = {key: score / 2 for key, score in self._scores.items() if score > 0.1}
            self._by_use = [(self._scores.get(key, 0.0), key) for key in self._shelf.slot_of]
            heapq.heapify(self._by_use)
        slot = self._shelf.slot_of.get(key)
        return None if slot is None else self._shelf.views(slot, self._sources[layer])

    def offer(self, layer: int, expert: int, parts: Mapping[str, torch.Tensor]) -> None:
        """Keep a copy of an expert if there is room, or one that is clearly less used.

        Parameters
        ----------
        layer, expert
            Which one; `find` has counted its use.
        parts
            Name to ``[*row_shape]``, on any device.
        """
        shelf = self._shelf
        if not self.capacity or (layer, expert) in shelf.slot_of:
            return
        mine = self._scores.get((layer, expert), 0.0)
        if not shelf.free:
            score, least = self._least_used()
            if mine <= score * LOYALTY + 1:
                return
            heapq.heappop(self._by_use)
            shelf.free.append(shelf.slot_of.pop(least))
        slot = shelf.free[-1]
        for name, view in shelf.views(slot, self._sources[layer]).items():
            view[0].copy_(parts[name])
        # Only now: a copy that failed must not leave half an expert to be found.
        shelf.free.pop()
        shelf.slot_of[layer, expert] = slot
        heapq.heappush(self._by_use, (mine, (layer, expert)))

    def _least_used(self) -> tuple[float, tuple[int, int]]:
        while True:
            entered, key = self._by_use[0]
            score = self._scores.get(key, 0.0)
            if score == entered:
                return score, key
            heapq.heapreplace(self._by_use, (score, key))

    def close(self) -> None:
        """Free the cache."""
        self._shelf.close()
        self._scores.clear()
        self._by_use.clear()
        self._sources = []
