"""Room for hot experts of several layers near the computation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ollm_widgets.weights.experts.sources import ExpertSource, stacked_bytes, stacked_views

# A held expert's count of uses against that of another: moving one costs a trip over the wire.
LOYALTY = 1.25


class Shelf:
    """Slots for single experts in one buffer, and which expert is where.

    Parameters
    ----------
    sources
        Of the layers, numbered by their order.
    capacity_bytes
        At most so many are taken; no more than all experts need.
    device
        Where the buffer is.
    """

    def __init__(
        self, sources: Sequence[ExpertSource], capacity_bytes: int, device: torch.device
    ) -> None:
        self.slot_bytes = max((stacked_bytes(each.tensors, 1) for each in sources), default=1)
        total = sum(source.experts for source in sources)
        self.slots = min(capacity_bytes // self.slot_bytes, total)
        self.buffer = torch.zeros(self.slots * self.slot_bytes, dtype=torch.uint8, device=device)
        self.slot_of: dict[tuple[int, int], int] = {}
        self.free = list(range(self.slots))[::-1]

    def views(self, slot: int, source: ExpertSource) -> dict[str, torch.Tensor]:
        """The parts of the expert in a slot, each ``[1, *row_shape]``."""
        start = slot * self.slot_bytes
        return stacked_views(self.buffer[start : start + self.slot_bytes], source.tensors, 1)

    def close(self) -> None:
        """Free the buffer."""
        self.buffer = self.buffer.new_empty(0)
        self.slot_of.clear()
        self.free, self.slots = [], 0
