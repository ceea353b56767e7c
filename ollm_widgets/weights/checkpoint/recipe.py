"""How one tensor of a model comes from its checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ollm_widgets.weights.checkpoint.conversions import Conversion
from ollm_widgets.weights.checkpoint.index import TensorSpan


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous run of bytes of a checkpoint tensor, and where it lands.

    Parameters
    ----------
    span
        The checkpoint tensor.
    source_offset_bytes, size_bytes
        The run, relative to the span, in the checkpoint's dtype.
    target_offset_elements
        Where it begins in the module tensor, row-major.
    """

    span: TensorSpan
    source_offset_bytes: int
    size_bytes: int
    target_offset_elements: int


@dataclass(frozen=True, slots=True)
class TensorRecipe:
    """How one tensor of the model comes from the checkpoint.

    Parameters
    ----------
    name
        Full name in the model.
    dtype, shape
        Of the module tensor, as `from_pretrained` would make it.
    pieces
        Runs that cover the tensor, by their place in it; one whose dtype differs is cast.
    conversion
        What makes the tensor where placing does not; there are no pieces then.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    conversion: Conversion | None

    @property
    def size_bytes(self) -> int:
        """Bytes of the module tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes that one read of it moves from disk."""
        if self.conversion is not None:
            return sum(span.size_bytes for span in self.conversion.spans)
        return sum(piece.size_bytes for piece in self.pieces)
