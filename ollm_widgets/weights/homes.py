"""Where one layer lives: on the device that computes, in host memory beside it, or on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.pinned import HostBuffer

if TYPE_CHECKING:
    from ollm_widgets.planning.ids import LayerTier
    from ollm_widgets.weights.decoding import HeldForm
    from ollm_widgets.weights.packing.format import PackedFormat
    from ollm_widgets.weights.quantized.form import StoredForm


@dataclass(slots=True)
class Part:
    """Tensors of one layer that share a buffer, and the memory that keeps them, if any does.

    Parameters
    ----------
    layout
        The tensors as they run.
    stored
        What they are expanded from where they run: quantized tensors as the checkpoint has them.
        Everywhere else these bytes are held and moved. None without quantized tensors.
    resident
        Their raw bytes in the memory that computes.
    host
        Their bytes in host memory beside an accelerator: stored, else packed where `packed` says
        how, else raw.
    """

    layout: LayerLayout
    stored: StoredForm | None = None
    resident: torch.Tensor | None = None
    host: HostBuffer | None = None
    packed: PackedFormat | None = None

    @property
    def read_layout(self) -> LayerLayout:
        """What is read from the checkpoint."""
        return self.layout if self.stored is None else self.stored.layout

    @property
    def form(self) -> HeldForm | None:
        """What streamed bytes are decoded from; None where they are raw."""
        return self.stored or self.packed

    def clear(self) -> None:
        """Let the memory go."""
        if self.host is not None:
            self.host.close()
        self.resident = self.host = self.packed = None

    @property
    def resident_bytes(self) -> int:
        """Bytes in the memory that computes."""
        return 0 if self.resident is None else self.resident.numel()

    @property
    def host_bytes(self) -> int:
        """Bytes in host memory beside an accelerator."""
        return 0 if self.host is None else self.host.size_bytes


@dataclass(slots=True)
class LayerHome:
    """One layer and its tier.

    Parameters
    ----------
    dense
        What every token needs; all of the layer where it has no experts of its own.
    experts
        Stacked experts of which a token needs a few; None where they stream with the rest.
    tier
        Where the layer is now.
    device
        Where it computes.
    """

    dense: Part
    experts: Part | None = None
    tier: LayerTier = "disk"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its parts."""
        return (self.dense,) if self.experts is None else (self.dense, self.experts)

    @property
    def size_bytes(self) -> int:
        """Raw bytes of the layer."""
        return sum(part.layout.size_bytes for part in self.parts)

    @property
    def read_bytes(self) -> int:
        """Bytes of the layer as it is read: quantized tensors as they are stored."""
        return sum(part.read_layout.size_bytes for part in self.parts)

    @property
    def resident_bytes(self) -> int:
        """Bytes in the memory that computes."""
        return sum(part.resident_bytes for part in self.parts)

    @property
    def host_bytes(self) -> int:
        """Bytes in host memory beside an accelerator."""
        return sum(part.host_bytes for part in self.parts)

    def clear(self) -> None:
        """Let its memory go; it is on disk then."""
        for part in self.parts:
            part.clear()
        self.tier = "disk"
