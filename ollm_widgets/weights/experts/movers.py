"""How the experts of one layer come to the computing device when its router has chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ollm_widgets.weights.experts.admission import AdmittingCache
from ollm_widgets.weights.experts.cache import AddressedCache
from ollm_widgets.weights.experts.slots import alignment_of, assign_slots, gather_rows
from ollm_widgets.weights.experts.sources import ExpertSource, HostExperts, stacked_views
from ollm_widgets.weights.experts.traffic import ExpertTraffic
from ollm_widgets.weights.experts.workspace import ExpertWorkspace, WholeLayer

# A prompt's tokens count for at most so many uses of an expert each: it says what the text is
# about, but the tokens to come are what the cache is for.
_PROMPT_USES = 64


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a call finds its experts.

    Parameters
    ----------
    tensors
        Parameter name to ``[rows, ...]`` on the device.
    index
        The router's choice as rows of those, of its own shape and dtype.
    area
        The whole layer they lie in, if they do.
    """

    tensors: Mapping[str, torch.Tensor]
    index: torch.Tensor
    area: WholeLayer | None = None


class ExpertMover(Protocol):
    """Brings experts of one layer."""

    @property
    def source(self) -> ExpertSource:
        """Whose experts."""

    def compact(self, index: torch.Tensor) -> Placed | None:
        """Bring the chosen experts into the compact room; None where they do not fit."""

    def whole(self, index: torch.Tensor) -> Placed:
        """Bring the chosen experts to their own places in a whole layer."""

    def traffic(self) -> ExpertTraffic:
        """What moved, apart from what a shared cache counts."""


class AddressedMover:
    """Kernels on the device fetch from host memory and the cache; the CPU learns nothing.

    Parameters
    ----------
    source, workspace, cache
        Whose experts, through which memory, by whose addresses.
    """

    def __init__(
        self, source: HostExperts, workspace: ExpertWorkspace, cache: AddressedCache
    ) -> None:
        self.source = source
        self._workspace = workspace
        layer = cache.layer_of(source)
        self._table = cache.table(layer)
        self._usage = cache.usage(layer)
        self._seen = cache.seen(layer)
        # Rows follow each other at their own size, and slots of the cache are aligned: the
        # address of the first says enough.
        self._alignment = [
            alignment_of([int(self._table[number, 0])], tensor.row_bytes)
            for number, tensor in enumerate(source.tensors)
        ]
        self._next: AddressedMover | None = None
        self._copies: torch.cuda.Stream | None = None
        self._ahead_bytes = 0

    def follow(self, following: AddressedMover, copies: torch.cuda.Stream) -> None:
        """Bring another layer whole, on a stream for copies, while this one computes prompts."""
        self._next, self._copies = following, copies

    def compact(self, index: torch.Tensor) -> Placed | None:
        """Fetch each chosen expert once, without waiting."""
        pairs, experts = index.numel(), self.source.experts
        rows = min(pairs, experts)
        if pairs > self._workspace.slots:
            return None
        chosen, remapped = self._workspace.chosen[:rows], self._workspace.remapped[:pairs]
        tensors = self._workspace.compact(self.source, rows)
        assign_slots(index.reshape(-1), remapped, chosen, self._usage, experts)
        self._fetch(chosen, tensors)
        return Placed(tensors, remapped.view(index.shape).to(index.dtype))

    def whole(self, index: torch.Tensor) -> Placed:
        """Fetch the chosen experts that this layer's last call did not bring, without waiting."""
        area = self._workspace.whole(self.source)
        experts = self.source.experts
        tensors = stacked_views(area.buffer, self.source.form.made, experts)
        flat = index.reshape(-1)
        number = torch.where((flat >= 0) & (flat < experts), flat, experts).long()
        uses = min(1.0, _PROMPT_USES / max(1, index.shape[0]))
        self._seen.scatter_add_(0, number, self._seen.new_full((1,), uses).expand_as(number))
        area.wait()
        present = area.present[:experts]
        chosen = torch.full((experts + 1,), -1, dtype=torch.int64, device=index.device)
        chosen = chosen.scatter_(0, number, number)[:experts].masked_fill_(present, -1)
        self._usage.add_(chosen >= 0)
        present.logical_or_(chosen >= 0)
        self._fetch(chosen, tensors)
        if self._next is not None and flat.numel() >= 4 * experts:
            self._next.bring_whole()
        return Placed(tensors, index, area)

    def bring_whole(self) -> None:
        """Start to copy the whole layer into the other room, if there is one."""
        workspace = self._workspace
        area = workspace.spare(self.source)
        if area is None or self._copies is None:
            return
        with torch.cuda.stream(self._copies):
            if area.used is not None:
                self._copies.wait_event(area.used)
            area.give(self.source)
            views = stacked_views(area.buffer, self.source.tensors, self.source.experts)
            for name, view in views.items():
                view.copy_(self.source.stacked[name], non_blocking=True)
                self._ahead_bytes += view.numel() * view.element_size()
            area.present.fill_(True)
            area.ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            area.ready.record(self._copies)

    def traffic(self) -> ExpertTraffic:
        """Bytes that were brought ahead of time."""
        return ExpertTraffic(moved_bytes=self._ahead_bytes)

    def _fetch(self, chosen: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        """Bring chosen experts, by way of the room for what is held where that is expanded."""
        if not self.source.form.expands:
            self._gather(chosen, tensors)
            return
        step = self._workspace.slots
        for start in range(0, len(chosen), step):
            part = chosen[start : start + step]
            held = self._workspace.held(self.source, len(part))
            self._gather(part, held)
            rows = {name: each[start : start + step] for name, each in tensors.items()}
            self.source.form.expand(held, rows, part)

    def _gather(self, chosen: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> None:
        for number, tensor in enumerate(self.source.tensors):
            gather_rows(self._table[number], chosen, tensors[tensor.name], self._alignment[number])


class ListedMover:
    """The CPU learns which experts were chosen, and reads or copies those that are not cached.

    Parameters
    ----------
    source, workspace, cache
        Whose experts, through which memory, and what keeps them.
    """

    def __init__(
        self, source: ExpertSource, workspace: ExpertWorkspace, cache: AdmittingCache
    ) -> None:
        self.source = source
        self._workspace = workspace
        self._cache = cache
        self._layer = cache.layer_of(source)
        self._traffic = ExpertTraffic()

    def compact(self, index: torch.Tensor) -> Placed | None:
        """Bring each chosen expert once, in the order of their numbers."""
        number, chosen = self._chosen(index)
        rows = len(chosen)
        if rows > self._workspace.slots:
            return None
        tensors = self._workspace.compact(self.source, rows)
        self._bring(chosen, range(rows), tensors)
        own = torch.tensor(chosen, dtype=number.dtype).to(number.device)
        # Numbers past the last expert stand for none, and so does the row past the last one.
        remapped = torch.searchsorted(own, number)
        return Placed(tensors, remapped.to(index.dtype))

    def whole(self, index: torch.Tensor) -> Placed:
        """Bring the chosen experts that this layer's last call did not bring."""
        area = self._workspace.whole(self.source)
        tensors = stacked_views(area.buffer, self.source.form.made, self.source.experts)
        _, chosen = self._chosen(index)
        absent = [expert for expert in chosen if expert not in area.held]
        self._bring(absent, absent, tensors)
        area.held.update(absent)
        return Placed(tensors, index, area)

    def traffic(self) -> ExpertTraffic:
        """What was wanted and moved up to now."""
        return self._traffic

    def _chosen(self, index: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        experts = self.source.experts
        number = torch.where((index >= 0) & (index < experts), index, experts).contiguous()
        return number, [each for each in torch.unique(number).tolist() if each < experts]

    def _bring(
        self, experts: Sequence[int], rows: Sequence[int], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        """Bring experts, by way of the room for what is held where that is expanded."""
        form = self.source.form
        if not form.expands:
            self._move(experts, rows, tensors)
            return
        step = max(1, self._workspace.slots)
        for start in range(0, len(experts), step):
            some = experts[start : start + step]
            held = self._workspace.held(self.source, len(some))
            self._move(some, range(len(some)), held)
            for place, row in enumerate(rows[start : start + step]):
                form.expand(
                    {name: each[place : place + 1] for name, each in held.items()},
                    {name: each[row : row + 1] for name, each in tensors.items()},
                )

    def _move(
        self, experts: Sequence[int], rows: Sequence[int], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        missing: list[tuple[int, int]] = []
        for expert, row in zip(experts, rows, strict=True):
            held = self._cache.find(self._layer, expert)
            if held is None:
                missing.append((expert, row))
                continue
            for name, part in held.items():
                tensors[name][row].copy_(part[0])
        batch = self._workspace.slots if self._staged else len(missing)
        for start in range(0, len(missing), max(1, batch)):
            self._fetch(missing[start : start + batch], tensors)
        for expert, row in missing:
            self._cache.offer(
                self._layer, expert, {name: each[row] for name, each in tensors.items()}
            )
        each_bytes = sum(tensor.row_bytes for tensor in self.source.tensors)
        self._traffic += ExpertTraffic(
            len(experts) - len(missing), len(missing), len(missing) * each_bytes
        )

    @property
    def _staged(self) -> bool:
        return self._workspace.device.type != "cpu"

    def _fetch(
        self, missing: Sequence[tuple[int, int]], tensors: Mapping[str, torch.Tensor]
    ) -> None:
        experts, rows = [expert for expert, _ in missing], [row for _, row in missing]
        if not self._staged:
            self.source.fetch(experts, rows, tensors, self._workspace.cancel)
            return
        staging = self._workspace.staging(self.source)
        places = range(len(missing))
        self.source.fetch(experts, places, staging, self._workspace.cancel)
        for place, row in enumerate(rows):
            for name, target in tensors.items():
                target[row].copy_(staging[name][place], non_blocking=True)
        self._workspace.note_staged()
