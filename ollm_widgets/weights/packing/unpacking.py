"""Decoding of packed layers, by Triton kernels on CUDA devices and by torch elsewhere."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.packing.format import (
    LANES,
    MANTISSA,
    PLANES,
    SIGN,
    SIGN_AND_MANTISSA,
    PackedFormat,
    StretchParts,
    index_bytes,
    require_bytes,
    steps_of,
)

if TYPE_CHECKING:
    from types import ModuleType


def unpack_into(packed: torch.Tensor, format_: PackedFormat, out: torch.Tensor) -> None:
    """Decode a blob to the layer's buffer.

    On a CUDA device with Triton this enqueues two kernels a stretch on the current stream; it
    allocates nothing there and waits for nothing, and may be captured in a graph once it has run
    outside of one. Elsewhere torch computes the same bits, with a bounded scratch.

    Parameters
    ----------
    packed
        uint8 [>= format_.size_bytes].
    format_
        How `pack_layer` has packed it.
    out
        uint8 [>= format_.raw_size_bytes], on the same device; bytes beyond are not changed.

    Raises
    ------
    ValueError
        If these are not such buffers, or, on a CPU, if an escape lies outside of its stretch.
    """
    packed = require_bytes(packed, format_.size_bytes, "a packed layer")
    out = require_bytes(out, format_.raw_size_bytes, "the buffer to decode to")
    if packed.device != out.device:
        raise ValueError(f"a packed layer on {packed.device} does not decode to {out.device}")
    kernels = _kernels() if out.is_cuda else None
    for stretch in format_.packed:
        parts = StretchParts.of(packed, stretch)
        raw = out[stretch.raw.offset_bytes : stretch.raw.end_bytes]
        pairs = raw.view(torch.int32).view(stretch.blocks, PLANES, LANES)
        elements = raw.view(torch.int16)
        if kernels is None:
            _unpack_blocks(parts.blocks, parts.table, pairs)
            _patch_escapes(parts.positions, parts.exponents, elements)
            continue
        kernels.unpack_blocks(parts.blocks, parts.table, pairs)
        if stretch.escapes:
            kernels.patch_escapes(parts.positions, parts.exponents, elements)
    for passed in format_.passed:
        source = packed[passed.offset_bytes : passed.offset_bytes + passed.size_bytes]
        out[passed.raw.offset_bytes : passed.raw.end_bytes].copy_(source)


@cache
def _kernels() -> ModuleType | None:
    try:
        from ollm_widgets.weights.packing import kernels as packing_kernels
    except ImportError:
        return None
    return packing_kernels


def _unpack_blocks(blocks: torch.Tensor, table: torch.Tensor, out: torch.Tensor) -> None:
    exponents = ((table << 16)[:, None] | table).view(-1)
    for step in steps_of(len(blocks), blocks.device):
        packed, target = blocks[step], out[step]
        indices = index_bytes(packed).to(torch.int32, memory_format=torch.contiguous_format)
        pairs = torch.index_select(exponents, 0, indices.view(-1)).view(target.shape)
        for word in range(2):
            shared = packed[:, word]
            even, odd = pairs[:, 2 * word], pairs[:, 2 * word + 1]
            torch.bitwise_or(even, shared & SIGN_AND_MANTISSA, out=target[:, 2 * word])
            odd |= (shared >> 7) & MANTISSA
            torch.bitwise_or(odd, (shared << 1) & SIGN, out=target[:, 2 * word + 1])


def _patch_escapes(positions: torch.Tensor, exponents: torch.Tensor, out: torch.Tensor) -> None:
    where = positions.long()
    if not out.is_cuda and bool(((where < 0) | (where >= out.numel())).any()):
        raise ValueError("a packed layer is damaged: an escape lies outside of its stretch")
    out[where] = (out[where] & ~0x7F80) | (exponents.to(torch.int16) << 7)
