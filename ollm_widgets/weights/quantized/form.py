"""What a layer looks like as its checkpoint stores it: which of its tensors are expanded, and how.

The stored layer is laid out like the layer itself, tensor by tensor: in the place of a quantized
one are its values and its scales, and the others are as they run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ollm_widgets.weights.checkpoint.layout import ALIGNMENT_BYTES, LayerLayout, TensorSlot
from ollm_widgets.weights.quantized.expanding import expand

if TYPE_CHECKING:
    import torch

    from ollm_widgets.weights.checkpoint.recipe import QuantizedKind


@dataclass(frozen=True, slots=True)
class PlainRun:
    """Bytes that are the same in the stored layer and in the layer's buffer."""

    stored_offset_bytes: int
    raw_offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredForm:
    """How a layer as it is stored becomes the layer's buffer; all shapes are known.

    Parameters
    ----------
    raw
        The layer's buffer.
    layout
        The stored layer: what is read, kept and moved. A quantized tensor ``name`` is
        ``name_values`` and ``name_scales`` there.
    kinds
        The quantized tensors by their names relative to the layer.
    plain
        All other tensors, adjacent ones together.
    """

    raw: LayerLayout
    layout: LayerLayout
    kinds: dict[str, QuantizedKind]
    plain: tuple[PlainRun, ...]

    @classmethod
    def of(cls, raw: LayerLayout) -> StoredForm | None:
        """Return the stored form of a layer; None for one that has no quantized tensors."""
        slots: list[TensorSlot] = []
        plain: list[PlainRun] = []
        kinds: dict[str, QuantizedKind] = {}
        position = 0
        for slot in raw.slots:
            quantized = slot.recipe.quantized
            if quantized is None:
                plain.append(PlainRun(position, slot.offset_bytes, _aligned(slot.size_bytes)))
                slots.append(replace(slot, offset_bytes=position))
                position += plain[-1].size_bytes
                continue
            kinds[slot.name] = quantized.kind
            parts = (("_values", quantized.values), ("_scales", quantized.scales))
            for suffix, recipe in parts:
                size = recipe.size_bytes
                slots.append(TensorSlot(recipe, f"{slot.name}{suffix}", position, size))
                position += _aligned(size)
        if not kinds:
            return None
        return cls(raw, LayerLayout(tuple(slots), position), kinds, tuple(_joined(plain)))

    @property
    def size_bytes(self) -> int:
        """Bytes of the stored layer."""
        return self.layout.size_bytes

    @property
    def raw_size_bytes(self) -> int:
        """Bytes of the layer's buffer."""
        return self.raw.size_bytes

    def expand_into(self, stored: torch.Tensor, out: torch.Tensor) -> None:
        """Expand a stored layer to the layer's buffer.

        On a CUDA device with Triton this enqueues one kernel or copy for each tensor on the
        current stream; it allocates nothing there and waits for nothing, and may be captured in a
        graph once it has run outside of one.

        Parameters
        ----------
        stored
            uint8 ``[at least size_bytes]``, contiguous.
        out
            uint8 ``[at least raw_size_bytes]``, on the same device; bytes beyond are not changed.

        Raises
        ------
        ValueError
            If these are not such buffers.
        """
        parts, targets = self.layout.views(stored), self.raw.views(out)
        if stored.device != out.device:
            raise ValueError(f"A layer on {stored.device} does not expand to {out.device}.")
        for name, kind in self.kinds.items():
            expand(kind, parts[f"{name}_values"], parts[f"{name}_scales"], targets[name])
        for run in self.plain:
            source = stored[run.stored_offset_bytes : run.stored_offset_bytes + run.size_bytes]
            out[run.raw_offset_bytes : run.raw_offset_bytes + run.size_bytes].copy_(source)


def _joined(runs: list[PlainRun]) -> list[PlainRun]:
    joined: list[PlainRun] = []
    for run in runs:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.stored_offset_bytes + last.size_bytes == run.stored_offset_bytes
            and last.raw_offset_bytes + last.size_bytes == run.raw_offset_bytes
        ):
            joined[-1] = replace(last, size_bytes=last.size_bytes + run.size_bytes)
        else:
            joined.append(run)
    return joined


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
