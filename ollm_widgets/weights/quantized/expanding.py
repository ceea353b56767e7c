"""Expansion of quantized weights, by Triton kernels on CUDA devices and by torch elsewhere.

The bits are those of transformers' own expansion (``Fp8Dequantize`` and ``Mxfp4Dequantize`` of its
integrations): value times scale in float32, rounded once. For each weight an accelerator reads its
bytes (1, or a half) and writes two, so it takes less than a tenth of the time in which the bytes
cross a wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from types import ModuleType

    from ollm_widgets.weights.checkpoint.recipe import QuantizedKind

# What torch expands at once: its scratch is a few times this in float32.
_CPU_STEP_ELEMENTS = 1 << 18
_ACCELERATOR_STEP_ELEMENTS = 1 << 24
_VALUES_PER_SCALE = 32
# The smallest float32 whose exponent is 2**-127, the scale that the byte 0 stands for.
_LEAST_SCALE_BITS = 0x00400000


def expand(
    kind: QuantizedKind,
    values: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    chosen: torch.Tensor | None = None,
) -> None:
    """Expand a tensor of either kind; see `expand_fp8` and `expand_mxfp4`."""
    (expand_fp8 if kind == "fp8" else expand_mxfp4)(values, scales, out, chosen)


def expand_fp8(
    values: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    chosen: torch.Tensor | None = None,
) -> None:
    """Multiply 8-bit values by the scales of their blocks.

    On a CUDA device with Triton this enqueues one kernel on the current stream, which allocates
    nothing and waits for nothing, and may be captured in a graph once it has run outside of one.

    Parameters
    ----------
    values
        float8_e4m3fn ``[..., rows, columns]``, contiguous.
    scales
        Floating point ``[..., row blocks, column blocks]``, contiguous, on the same device.
    out
        bfloat16, float16 or float32, of the shape of `values`, contiguous.
    chosen
        int64 ``[first dimension]``; where it is negative, `out` is left as it is.
    """
    kernels = _kernels() if out.is_cuda else None
    if kernels is not None:
        kernels.expand_fp8(values, scales, out, chosen)
        return
    for row in _rows_of(chosen):
        _multiply(values[row], scales[row], out[row])


def expand_mxfp4(
    values: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    chosen: torch.Tensor | None = None,
) -> None:
    """Multiply 4-bit values (e2m1) by the powers of two of their groups, and transpose.

    It runs and may be captured as `expand_fp8`. The format is OCP's Microscaling Formats, 1.0.

    Parameters
    ----------
    values
        uint8 ``[experts, columns, groups, 16]``, contiguous; the low half of a byte comes first.
    scales
        uint8 ``[experts, columns, groups]``, contiguous: exponents, with 127 added.
    out
        bfloat16, float16 or float32 ``[experts, 32 * groups, columns]``, contiguous.
    chosen
        int64 ``[experts]``; where it is negative, `out` is left as it is.
    """
    kernels = _kernels() if out.is_cuda else None
    if kernels is not None:
        kernels.expand_mxfp4(values, scales, out, chosen)
        return
    for row in _rows_of(chosen):
        for expert in range(*row.indices(len(out))):
            _scale_and_transpose(values[expert], scales[expert], out[expert])


def _rows_of(chosen: torch.Tensor | None) -> Iterator[slice]:
    """The stretches of the first dimension that are expanded."""
    if chosen is None:
        yield slice(None)
        return
    for row, expert in enumerate(chosen.tolist()):
        if expert >= 0:
            yield slice(row, row + 1)


def _multiply(values: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    columns, column_blocks = values.shape[-1], scales.shape[-1]
    codes, out = values.view(torch.uint8).view(-1, columns), out.view(-1, columns)
    factors = scales.view(-1, column_blocks).float()[:, None, :, None]
    most = max(_step_elements(out.device), columns)
    bits, sign = torch.empty(2, most, dtype=torch.int16, device=out.device)
    product = torch.empty(most, dtype=torch.float32, device=out.device)
    for rows, blocks in _steps(len(codes), len(codes) // len(factors), columns, out.device):
        code = codes[rows].view(-1)
        size = len(code)
        found, signs, floats = bits[:size], sign[:size], product[:size]
        # As float16, which torch makes float32 of much faster than of 8 bits; what lacks an
        # exponent here lacks it there too. 127 stands for no number.
        signs.copy_(code)
        torch.bitwise_and(signs, 127, out=found)
        none = (found + 1).bitwise_and_(128).bitwise_left_shift_(7)
        found.bitwise_left_shift_(7).bitwise_or_(none)
        found.bitwise_or_(signs.bitwise_and_(128).bitwise_left_shift_(8))
        floats.copy_(found.view(torch.float16)).mul_(2.0**8)
        shape = (blocks.stop - blocks.start, -1, column_blocks, columns // column_blocks)
        out[rows].view(shape).copy_(floats.view(shape).mul_(factors[blocks]))


def _steps(
    rows: int, block_rows: int, columns: int, device: torch.device
) -> Iterator[tuple[slice, slice]]:
    """Cut rows into runs of whole blocks, or of parts of one where a block is large."""
    most = max(_step_elements(device) // columns, 1)
    step = most // block_rows * block_rows or most
    start = 0
    while start < rows:
        # A run that is shorter than a block ends with it.
        block_end = (start // block_rows + 1) * block_rows
        end = min(start + step, rows if step >= block_rows else block_end)
        yield slice(start, end), slice(start // block_rows, -(-end // block_rows))
        start = end


def _scale_and_transpose(values: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """Expand one expert: ``[columns, groups, 16]`` to ``[32 * groups, columns]``."""
    columns, groups = scales.shape
    width = groups * _VALUES_PER_SCALE
    step = max(_step_elements(out.device) // width, 1)
    pairs, more = torch.empty(2, step, width // 2, dtype=torch.int32, device=out.device)
    product = torch.empty(step, groups, _VALUES_PER_SCALE, device=out.device)
    for start in range(0, columns, step):
        part = slice(start, min(start + step, columns))
        size = part.stop - start
        found, other, floats = pairs[:size], more[:size], product[:size]
        # Two float16 to a byte: they hold what lacks an exponent, and shifts are all it takes.
        other.copy_(values[part].view(size, -1))
        torch.bitwise_and(other, 0x07, out=found).bitwise_left_shift_(9)
        for mask, shift in ((0x08, 12), (0x70, 21), (0x80, 24)):
            found.bitwise_or_((other & mask).bitwise_left_shift_(shift))
        floats.copy_(found.view(torch.float16).view(floats.shape)).mul_(2.0**14)
        exponents = scales[part].int()
        powers = torch.where(exponents == 0, _LEAST_SCALE_BITS, exponents << 23)
        floats.mul_(powers.view(torch.float32)[:, :, None])
        out[:, part].copy_(floats.view(size, -1).t())


def _step_elements(device: torch.device) -> int:
    return _CPU_STEP_ELEMENTS if device.type == "cpu" else _ACCELERATOR_STEP_ELEMENTS


@cache
def _kernels() -> ModuleType | None:
    try:
        from ollm_widgets.weights.quantized import kernels as quantized_kernels
    except ImportError:
        return None
    return quantized_kernels
