"""The Triton kernel that decodes quantized pages; `sections` has their bytes.

Importing this module needs Triton. The bits are those of torch's multiplication and addition.
"""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# A kernel's arguments are positional, and its constants upper case: that is how Triton has them.
# ruff: noqa: N803, PLR0917

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

from ollm_widgets.kv.codecs.sections import Bits, Section

_WARPS = 4
# Numbers of a program; a row of channels stays whole up to so many of them.
_NUMBERS, _MOST_CHANNELS = 4096, 512


@triton.jit(do_not_specialize=["page_bytes", "out_page", "out_batch", "out_head"])
def _dequantize(
    pages,
    out,
    page_bytes,
    out_page,
    out_batch,
    out_head,
    CODES: tl.constexpr,
    SCALES: tl.constexpr,
    ZEROS: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP_TOKENS: tl.constexpr,
    GROUP_CHANNELS: tl.constexpr,
    OUT_TOKEN: tl.constexpr,
    OUT_CHANNEL: tl.constexpr,
    PACKED: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    tiles = tl.cdiv(WIDTH, LANES)
    token = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(0) % tiles * LANES + tl.arange(0, LANES)[None, :]
    wanted = (token < TOKENS) & (channel < WIDTH)
    page = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2)
    start = pages + page * page_bytes
    if PACKED:
        byte = start + CODES + (row * TOKENS + token) * ((WIDTH + 1) // 2) + channel // 2
        pair = tl.load(byte, mask=wanted, other=0).to(tl.int32)
        code = tl.where(channel % 2 == 0, pair & 15, pair >> 4)
    else:
        code = tl.load(start + CODES + (row * TOKENS + token) * WIDTH + channel, mask=wanted)
    groups: tl.constexpr = (TOKENS + GROUP_TOKENS - 1) // GROUP_TOKENS
    wide: tl.constexpr = (WIDTH + GROUP_CHANNELS - 1) // GROUP_CHANNELS
    group = (row * groups + token // GROUP_TOKENS) * wide + channel // GROUP_CHANNELS
    scales = (start + SCALES).to(tl.pointer_type(tl.float16))
    zeros = (start + ZEROS).to(tl.pointer_type(tl.float16))
    scale = tl.load(scales + group, mask=wanted, other=0.0).to(tl.float32)
    zero = tl.load(zeros + group, mask=wanted, other=0.0).to(tl.float32)
    number = code.to(tl.float32) * scale + zero
    place = page * out_page + (row // HEADS).to(tl.int64) * out_batch
    place += (row % HEADS).to(tl.int64) * out_head + token * OUT_TOKEN + channel * OUT_CHANNEL
    tl.store(out + place, number.to(out.dtype.element_ty), mask=wanted)


def dequantize(
    pages: torch.Tensor,
    sections: tuple[Section, Section, Section],
    bits: Bits,
    group: tuple[int, int],
    out: torch.Tensor,
) -> None:
    """Decode the keys, or the values, of pages.

    Parameters
    ----------
    pages
        ``uint8 [pages, page bytes]``, the last dimension contiguous.
    sections
        Of their codes, scales and zeros.
    bits
        Of a code.
    group
        Tokens and channels that share a scale.
    out
        ``[pages, batch, heads, tokens, width]`` of any strides, on the same device.
    """
    count, batch, heads, tokens, width = out.shape
    codes, scales, zeros = sections
    lanes = min(triton.next_power_of_2(width), _MOST_CHANNELS)
    rows = min(triton.next_power_of_2(tokens), _NUMBERS // lanes)
    grid = (triton.cdiv(tokens, rows) * triton.cdiv(width, lanes), count, batch * heads)
    with _on(out):
        # A multiplication and an addition in one would round once where torch rounds twice.
        _dequantize[grid](
            pages, out, pages.stride(0), *out.stride()[:3],
            CODES=codes.offset, SCALES=scales.offset, ZEROS=zeros.offset,
            HEADS=heads, TOKENS=tokens, WIDTH=width,
            GROUP_TOKENS=group[0], GROUP_CHANNELS=group[1],
            OUT_TOKEN=out.stride(3), OUT_CHANNEL=out.stride(4),
            PACKED=bits == 4, ROWS=rows, LANES=lanes,
            num_warps=_WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def _on(out: torch.Tensor) -> AbstractContextManager[object]:
    """Launch on the device of a tensor; Triton's interpreter has tensors on the CPU."""
    return torch.cuda.device(out.device) if out.is_cuda else nullcontext()
