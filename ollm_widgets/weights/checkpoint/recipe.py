"""How one tensor of a model comes from its checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

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


QuantizedKind: TypeAlias = Literal["fp8", "mxfp4"]


@dataclass(frozen=True, slots=True)
class Quantized:
    """The stored tensors that a module tensor is expanded from, placed as its blocks are.

    Of ``fp8`` the values are like the module tensor, ``[..., rows, columns]`` of float8_e4m3fn,
    and the scales are ``[..., row blocks, column blocks]``. Of ``mxfp4`` the values are uint8
    ``[experts, columns, groups, 16]``, two to a byte, of a module tensor
    ``[experts, 32 * groups, columns]``, and the scales are exponents, uint8
    ``[experts, columns, groups]``. The first dimension of all three is the same, unless the
    module tensor is a matrix.

    Parameters
    ----------
    kind
        The format.
    values, scales
        How the stored tensors come from the checkpoint.
    """

    kind: QuantizedKind
    values: TensorRecipe
    scales: TensorRecipe


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
    quantized
        What it can be expanded from instead of being converted, with the same bits; None where
        the checkpoint has it plain, or in a form that only transformers expands.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    conversion: Conversion | None
    quantized: Quantized | None = None

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
