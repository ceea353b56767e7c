"""Copies of cold pages that run ahead of attention, inside a captured step.

The copy engine moves pages somewhat faster than a kernel reads them in place, and goes on while
other kernels compute. So the pages that are cold when a step is captured pass through a few slots
on the device, in the order in which layers ask for them; a slot is free again once it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ollm_widgets.kv.attention.host_pages import HostPages
from ollm_widgets.kv.attention.launching import ColdPart
from ollm_widgets.weights.cuda import new_event, new_stream

SLOTS = 4


@dataclass(frozen=True, slots=True)
class _Piece:
    layer: int
    first_page: int
    stretch: torch.Tensor


class Staging:
    """See the module.

    Parameters
    ----------
    device
        A CUDA device.
    slot_bytes
        The most that is copied at once.
    """

    def __init__(self, device: torch.device, slot_bytes: int) -> None:
        self._device = device
        self._slots = torch.empty(SLOTS, slot_bytes, dtype=torch.uint8, device=device)
        self._tables: dict[int, torch.Tensor] = {}
        self._stream = new_stream(device)
        self._pieces: list[_Piece] = []
        self._free: list[torch.cuda.Event | None] = []
        self._arrived: list[torch.cuda.Event] = []
        self._next = 0

    @property
    def size_bytes(self) -> int:
        """Bytes on the device."""
        return self._slots.numel()

    def prepare(self, layers: Sequence[HostPages], pages: int) -> None:
        """Plan the copies of a step: the first `pages` of each layer, in the layers' order."""
        self._pieces = [
            _Piece(number, first, stretch)
            for number, layer in enumerate(layers)
            for first, stretch in layer.pieces(0, pages)
        ]
        # Made before a capture: what a graph reads must not be the graph's own.
        for layer in layers:
            self._table(layer.page_bytes)

    def begin(self) -> None:
        """Start to copy, behind what the current stream has done."""
        self._free = [None] * SLOTS
        self._arrived, self._next = [], 0
        if self._pieces:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for number in range(min(SLOTS, len(self._pieces))):
            self._copy(number)

    def next_of(self, layer: int) -> ColdPart | None:
        """The layer's next pages, as soon as the current stream has waited; None after the last.

        Call `release` when what reads them was launched.
        """
        if self._next == len(self._pieces) or self._pieces[self._next].layer != layer:
            return None
        piece = self._pieces[self._next]
        torch.cuda.current_stream(self._device).wait_event(self._arrived[self._next])
        pages, page_bytes = piece.stretch.shape
        return ColdPart(
            self._table(page_bytes),
            (self._next % SLOTS) * (self._slots.shape[1] // page_bytes),
            piece.first_page,
            piece.first_page + pages,
        )

    def release(self) -> None:
        """Let the slot of the last `next_of` be filled anew."""
        event = new_event()
        event.record(torch.cuda.current_stream(self._device))
        self._free[self._next % SLOTS] = event
        self._next += 1
        if (following := self._next - 1 + SLOTS) < len(self._pieces):
            self._copy(following)

    def join(self) -> None:
        """Have the current stream wait for all copies."""
        if self._arrived:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._free, self._arrived = [], []

    @property
    def complete(self) -> bool:
        """Whether every copy of the step was asked for."""
        return self._next == len(self._pieces)

    def _copy(self, number: int) -> None:
        stretch, slot = self._pieces[number].stretch, number % SLOTS
        with torch.cuda.stream(self._stream):
            if (free := self._free[slot]) is not None:
                self._stream.wait_event(free)
            target = self._slots[slot, : stretch.numel()].view(stretch.shape)
            target.copy_(stretch, non_blocking=True)
            event = new_event()
            event.record(self._stream)
        self._arrived.append(event)

    def _table(self, page_bytes: int) -> torch.Tensor:
        """Addresses of the pages of each slot, int64 [slots * pages of a slot]."""
        if page_bytes not in self._tables:
            room = self._slots.shape[1]
            slot = torch.arange(SLOTS, device=self._device)[:, None] * room
            page = torch.arange(room // page_bytes, device=self._device) * page_bytes
            self._tables[page_bytes] = (slot + page).flatten() + self._slots.data_ptr()
        return self._tables[page_bytes]
