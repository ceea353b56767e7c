"""Lossless packing of bf16 weights in 12 bits each, and its decoding.

The exponents of a layer's weights are few: almost all are among the 15 commonest. So a weight is
packed as its sign and mantissa (8 bits) and the index of its exponent in a table of those 15 (4
bits); the rest are escapes, listed with position and exponent. Normally distributed weights take
0.7505 of their bytes. Nothing is lost: zeros, subnormals, infinities and NaN payloads come back
bit for bit.

What is decoded is the layer's buffer exactly as its `LayerLayout` lays it out, the gaps between
tensors included, so parameters are views of it. Adjacent bf16 tensors form one stretch with one
table; tensors of other dtypes (fp16 and fp32 too, in this version) pass through as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.packing.format import (
    ALIGNMENT_BYTES,
    BLOCK_ELEMENTS,
    BLOCK_RAW_BYTES,
    ESCAPES_STEP,
    LANES,
    MANTISSA,
    MAX_ELEMENTS,
    PLANES,
    SIGN_AND_MANTISSA,
    ByteRange,
    PackedFormat,
    PackedStretch,
    PassedStretch,
    StretchParts,
    index_bytes,
    require_bytes,
    steps_of,
)
from ollm_widgets.weights.packing.unpacking import unpack_into

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.layout import LayerLayout

__all__ = ["PackedFormat", "PackedLayer", "pack_layer", "plan_packing", "unpack_into"]

# Below this a stretch saves too little for two more kernels.
_MIN_ELEMENTS = 64 * 1024
# A layer or stretch that packs to more than this fraction is not worth decoding.
_WORTHWHILE = 0.95

_TABLED = 15
_ESCAPE = 15


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer's bytes, packed.

    Parameters
    ----------
    format
        How to decode them.
    blob
        uint8 [format.size_bytes].
    """

    format: PackedFormat
    blob: torch.Tensor


def plan_packing(layout: LayerLayout, *, max_elements: int = MAX_ELEMENTS) -> tuple[ByteRange, ...]:
    """Return the ranges of a layer's buffer that can be packed: runs of adjacent bf16 tensors.

    Parameters
    ----------
    layout
        The layer's tensors; their values are not known yet.
    max_elements
        A longer run is cut.

    Returns
    -------
    tuple of ByteRange
        Whole blocks of 4096 elements, in ascending order; runs under 65536 elements are left out.
    """
    runs: list[ByteRange] = []
    open_run = False
    for slot in sorted(layout.slots, key=lambda slot: slot.offset_bytes):
        is_bf16 = slot.recipe.dtype == torch.bfloat16
        if is_bf16:
            start = runs.pop().offset_bytes if open_run else slot.offset_bytes
            runs.append(ByteRange(start, slot.offset_bytes + slot.size_bytes - start))
        open_run = is_bf16
    step = max(max_elements // BLOCK_ELEMENTS, 1) * BLOCK_RAW_BYTES
    ranges: list[ByteRange] = []
    for run in runs:
        if run.size_bytes < 2 * _MIN_ELEMENTS:
            continue
        whole = run.size_bytes // BLOCK_RAW_BYTES * BLOCK_RAW_BYTES
        for start in range(0, whole, step):
            ranges.append(ByteRange(run.offset_bytes + start, min(step, whole - start)))
    return tuple(ranges)


def pack_layer(raw: torch.Tensor, layout: LayerLayout) -> PackedLayer | None:
    """Pack a layer's buffer, on the device where it is.

    Beside the blob this needs a scratch of some 4 MiB on a CPU, 0.2 GiB on an accelerator.

    Parameters
    ----------
    raw
        uint8 [>= layout.size_bytes], as `layout` lays it out; not changed.
    layout
        The layer's tensors.

    Returns
    -------
    PackedLayer or None
        None if packing saves less than a twentieth of the bytes: the layer should stay raw.

    Raises
    ------
    ValueError
        If `raw` is not such a buffer.
    """
    raw = require_bytes(raw, layout.size_bytes, "a layer's buffer")
    tables: list[tuple[ByteRange, _Exponents]] = []
    for part in plan_packing(layout):
        exponents = _commonest_exponents(raw[part.offset_bytes : part.end_bytes])
        packed_bytes = 0.75 * part.size_bytes + 5 * exponents.escapes
        if packed_bytes < _WORTHWHILE * part.size_bytes:
            tables.append((part, exponents))
    format_ = _format_of(raw.numel(), [(part, table.escapes) for part, table in tables])
    if not tables or format_.size_bytes > _WORTHWHILE * raw.numel():
        return None
    blob = torch.zeros(format_.size_bytes, dtype=torch.uint8, device=raw.device)
    for stretch, (_, exponents) in zip(format_.packed, tables, strict=True):
        _pack_stretch(raw, stretch, exponents, blob)
    for passed in format_.passed:
        target = blob[passed.offset_bytes : passed.offset_bytes + passed.size_bytes]
        target.copy_(raw[passed.raw.offset_bytes : passed.raw.end_bytes])
    return PackedLayer(format_, blob)


def _format_of(raw_size_bytes: int, packed: Sequence[tuple[ByteRange, int]]) -> PackedFormat:
    """Place packed stretches, given with their escapes, and all that is between them in a blob."""
    stretches: list[PackedStretch] = []
    passed: list[ByteRange] = []
    end = covered = 0
    for part, escapes in packed:
        capacity = -(-escapes // ESCAPES_STEP) * ESCAPES_STEP
        blocks = part.size_bytes // BLOCK_RAW_BYTES
        stretches.append(PackedStretch(part.offset_bytes, end, blocks, capacity))
        end += stretches[-1].size_bytes
        passed.append(ByteRange(covered, part.offset_bytes - covered))
        covered = part.end_bytes
    passed.append(ByteRange(covered, raw_size_bytes - covered))
    tail: list[PassedStretch] = []
    for gap in passed:
        if gap.size_bytes:
            tail.append(PassedStretch(gap.offset_bytes, end, gap.size_bytes))
            end += -(-gap.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return PackedFormat(raw_size_bytes, end, tuple(stretches), tuple(tail))


@dataclass(frozen=True, slots=True)
class _Exponents:
    """The 15 commonest exponents of a stretch, and how many elements have another."""

    table: tuple[int, ...]
    escapes: int


def _commonest_exponents(raw: torch.Tensor) -> _Exponents:
    blocks = raw.view(torch.int16).view(-1, BLOCK_ELEMENTS)
    counts = torch.zeros(256, dtype=torch.int64, device=raw.device)
    for step in steps_of(len(blocks), raw.device):
        exponents = ((blocks[step] >> 7) & 255).to(torch.uint8)
        counts += torch.bincount(exponents.flatten(), minlength=256)
    # Ties are decided here, so that a blob does not depend on the device that packed it.
    found = counts.tolist()
    table = sorted(range(256), key=lambda exponent: (-found[exponent], exponent))[:_TABLED]
    return _Exponents(tuple(table), sum(found) - sum(found[exponent] for exponent in table))


def _pack_stretch(
    raw: torch.Tensor, stretch: PackedStretch, exponents: _Exponents, blob: torch.Tensor
) -> None:
    parts = StretchParts.of(blob, stretch)
    source = raw[stretch.raw.offset_bytes : stretch.raw.end_bytes]
    pairs = source.view(torch.int32).view(stretch.blocks, PLANES, LANES)
    device = raw.device
    table = torch.tensor(exponents.table, dtype=torch.int32)
    parts.table[:_TABLED] = (table << 7).to(device)
    codes = torch.full((256,), _ESCAPE, dtype=torch.uint8)
    codes[table] = torch.arange(_TABLED, dtype=torch.uint8)
    codes = codes.to(device)
    found = 0
    for step in steps_of(stretch.blocks, device):
        indices = _pack_blocks(pairs[step], codes, parts.blocks[step])
        if exponents.escapes:
            escaped = torch.stack((indices & 15, indices >> 4), -1).view(-1) == _ESCAPE
            positions = escaped.nonzero().view(-1) + step.start * BLOCK_ELEMENTS
            parts.positions[found : found + len(positions)] = positions
            found += len(positions)
    if exponents.escapes:
        parts.positions[found:] = parts.positions[0]
        values = source.view(torch.int16)[parts.positions.long()]
        parts.exponents.copy_((values >> 7) & 255)


def _pack_blocks(pairs: torch.Tensor, codes: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Pack int32 [blocks, 4, lanes] to [blocks, 3, lanes]; returns uint8 indices [blocks, 4, ...].

    Each byte of the indices has those of two elements, the lower element's in its low half.
    """
    for word in range(2):
        even, odd = pairs[:, 2 * word], pairs[:, 2 * word + 1]
        # The shifts keep only bits whose neighbours they cannot disturb, of either sign.
        folded = ((odd & MANTISSA) << 7) | ((odd >> 1) & 0x40004000)
        torch.bitwise_or(even & SIGN_AND_MANTISSA, folded, out=out[:, word])
    low = torch.index_select(codes, 0, ((pairs >> 7) & 255).view(-1))
    high = torch.index_select(codes << 4, 0, ((pairs >> 23) & 255).view(-1))
    indices = low.bitwise_or_(high).view(pairs.shape)
    index_bytes(out).copy_(indices)
    return indices
