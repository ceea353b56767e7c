"""The Triton kernels that expand quantized weights; `expanding` describes what they do.

Importing this module needs Triton. A launch allocates nothing and waits for nothing, so it may be
captured in a CUDA graph, once each kernel has run outside of one: its first run compiles it.
"""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# A kernel's arguments are positional: that is how Triton passes them.
# ruff: noqa: PLR0917

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

# A thread reads sixteen adjacent bytes in one instruction.
_WARPS = 4
_ROWS, _COLUMNS = 4, 512
# Bytes of four groups, which four scales belong to, for as many columns as fill a write.
_BYTES, _MXFP4_COLUMNS = 64, 64


@triton.jit
def _fp8(
    values,
    scales,
    out,
    chosen,
    rows,
    columns,
    column_blocks,
    BLOCK_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_COLUMNS: tl.constexpr,  # noqa: N803
    CHOSEN: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    first = tl.program_id(2).to(tl.int64)
    if CHOSEN:  # noqa: SIM102  (the choice is made when the kernel is compiled)
        if tl.load(chosen + first) < 0:
            return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = (first * rows + row)[:, None] * columns + column[None, :]
    code = tl.load(values + place, mask=inside, other=0).to(tl.int32)
    exponent = (code >> 3) & 15
    mantissa = code & 7
    # Not by the hardware's own conversion, which older GPUs lack; and without small numbers that
    # a multiplication might take for zero.
    normal = (((exponent + 120) << 23) | (mantissa << 20)).to(tl.float32, bitcast=True)
    small = mantissa.to(tl.float32) * 0.001953125
    size = tl.where(exponent == 0, small, normal)
    size = tl.where((code & 127) == 127, float("nan"), size)
    bits = size.to(tl.int32, bitcast=True) | ((code & 128) << 24)
    block = (first * (rows // BLOCK_ROWS) + row // BLOCK_ROWS)[:, None] * column_blocks
    block = block + (column // BLOCK_COLUMNS)[None, :]
    scale = tl.load(scales + block, mask=inside, other=0).to(tl.float32)
    product = bits.to(tl.float32, bitcast=True) * scale
    tl.store(out + place, product.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _mxfp4(
    values,
    scales,
    out,
    chosen,
    columns,
    groups,
    CHOSEN: tl.constexpr,  # noqa: N803
    BYTES: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    first = tl.program_id(2).to(tl.int64)
    if CHOSEN:  # noqa: SIM102  (the choice is made when the kernel is compiled)
        if tl.load(chosen + first) < 0:
            return
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    byte = tl.program_id(1) * BYTES + tl.arange(0, BYTES)
    inside = (column < columns)[:, None] & (byte < groups * 16)[None, :]
    own = (first * columns + column)[:, None]
    pair = tl.load(values + own * (groups * 16) + byte[None, :], mask=inside, other=0)
    exponent = tl.load(scales + own * groups + (byte // 16)[None, :], mask=inside, other=0)
    exponent = exponent.to(tl.int32)
    power = tl.where(exponent == 0, 0x00400000, exponent << 23).to(tl.float32, bitcast=True)
    pair = pair.to(tl.int32)
    target = out + (first * groups * 32 + 2 * byte)[None, :] * columns + column[:, None]
    for half in tl.static_range(2):
        code = (pair >> (4 * half)) & 15
        size = code & 7
        normal = (((size >> 1) + 126) << 23) | ((size & 1) << 22)
        # A half, the only value without an exponent beside zero.
        bits = tl.where(size < 2, size * 0x3F000000, normal) | ((code & 8) << 28)
        product = bits.to(tl.float32, bitcast=True) * power
        tl.store(target + half * columns, product.to(out.dtype.element_ty), mask=inside)


def expand_fp8(
    values: torch.Tensor, scales: torch.Tensor, out: torch.Tensor, chosen: torch.Tensor | None
) -> None:
    """See `expanding.expand_fp8`."""
    stacked = len(values) if values.dim() > 2 else 1
    columns, column_blocks = values.shape[-1], scales.shape[-1]
    rows = math.prod(values.shape[:-1]) // stacked
    row_blocks = math.prod(scales.shape[:-1]) // stacked
    grid = (triton.cdiv(rows, _ROWS), triton.cdiv(columns, _COLUMNS), stacked)
    with _on(out):
        _fp8[grid](
            values.view(torch.uint8), scales, out, out if chosen is None else chosen,
            rows, columns, column_blocks,
            BLOCK_ROWS=rows // row_blocks, BLOCK_COLUMNS=columns // column_blocks,
            CHOSEN=chosen is not None, ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=_WARPS,
        )  # fmt: skip


def expand_mxfp4(
    values: torch.Tensor, scales: torch.Tensor, out: torch.Tensor, chosen: torch.Tensor | None
) -> None:
    """See `expanding.expand_mxfp4`."""
    experts, columns, groups = scales.shape
    grid = (triton.cdiv(columns, _MXFP4_COLUMNS), triton.cdiv(groups * 16, _BYTES), experts)
    with _on(out):
        _mxfp4[grid](
            values, scales, out, out if chosen is None else chosen, columns, groups,
            CHOSEN=chosen is not None, BYTES=_BYTES, COLUMNS=_MXFP4_COLUMNS, num_warps=_WARPS,
        )  # fmt: skip


def _on(out: torch.Tensor) -> AbstractContextManager[object]:
    """Launch on the device of a tensor; Triton's interpreter has tensors on the CPU."""
    return torch.cuda.device(out.device) if out.is_cuda else nullcontext()
