"""The two Triton kernels that decode a packed stretch; `packing` describes the format.

Importing this module needs Triton; `packing` decodes with torch where it is missing. A launch
allocates nothing on the device and waits for nothing, so it may be captured in a CUDA graph, once
each kernel has run outside of one: its first run compiles it.
"""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

# Four warps over 512 lanes: a thread moves four adjacent words, 16 bytes, in one instruction.
_WARPS = 4
_PATCHES = 256

_SIGN_AND_MANTISSA = tl.constexpr(-0x7F807F81)  # 0x807F807F as int32
_SIGN = tl.constexpr(-0x7FFF8000)  # 0x80008000 as int32
_MANTISSA = tl.constexpr(0x007F007F)


@triton.jit
def _unpack(packed, table, out, LANES: tl.constexpr):  # noqa: N803
    block = tl.program_id(0)
    lane = tl.arange(0, LANES)
    source = packed + block * (3 * LANES) + lane
    target = out + block * (4 * LANES) + lane
    first = tl.load(source)
    second = tl.load(source + LANES)
    codes = tl.load(source + 2 * LANES)
    for plane in tl.static_range(4):
        shared = first if plane < 2 else second
        if plane % 2 == 0:
            kept = shared & _SIGN_AND_MANTISSA
        else:
            kept = ((shared >> 7) & _MANTISSA) | ((shared << 1) & _SIGN)
        low = tl.load(table + ((codes >> (8 * plane)) & 15))
        high = tl.load(table + ((codes >> (8 * plane + 4)) & 15))
        tl.store(target + plane * LANES, kept | low | (high << 16))


@triton.jit
def _patch(positions, exponents, out, elements, BLOCK: tl.constexpr):  # noqa: N803
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    position = tl.load(positions + entry)
    exponent = tl.load(exponents + entry).to(tl.int32)
    # A damaged list must not reach memory outside of its stretch.
    inside = (position >= 0) & (position < elements)
    value = tl.load(out + position, mask=inside, other=0).to(tl.int32)
    tl.store(out + position, ((value & 0x807F) | (exponent << 7)).to(tl.int16), mask=inside)


def unpack_blocks(packed: torch.Tensor, table: torch.Tensor, out: torch.Tensor) -> None:
    """Decode all blocks of a stretch; what the table does not hold gets the exponent 0.

    Parameters
    ----------
    packed
        int32 [blocks, 3, lanes], contiguous, on a CUDA device.
    table
        int32 [16], exponents shifted to their place in a bf16 value; the last is 0.
    out
        int32 [blocks, 4, lanes], contiguous.
    """
    with torch.cuda.device(out.device):
        _unpack[(packed.shape[0],)](packed, table, out, LANES=packed.shape[2], num_warps=_WARPS)


def patch_escapes(positions: torch.Tensor, exponents: torch.Tensor, out: torch.Tensor) -> None:
    """Give listed elements their exponents, after `unpack_blocks` on the same stream.

    Parameters
    ----------
    positions
        int32 [escapes], indices into `out`; a multiple of 256 of them, repeats allowed.
    exponents
        uint8 [escapes].
    out
        int16 [elements].
    """
    with torch.cuda.device(out.device):
        _patch[(positions.numel() // _PATCHES,)](
            positions, exponents, out, out.numel(), BLOCK=_PATCHES, num_warps=_WARPS
        )
