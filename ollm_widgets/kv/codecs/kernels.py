"""The Triton kernel that decodes quantized pages; `sections` has their bytes.

Importing this module needs Triton. The bits are those of torch's multiplication and addition.
"""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# A kernel's arguments are positional, and its constants upper case: that is how Triton has them.
# ruff: noqa: N803, PLR0917

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

from ollm_widgets.kv.codecs.sections import Bits, Section

_WARPS = 4
# Numbers of a program; a row of channels stays whole up to so many of them.
_NUMBERS, _MOST_CHANNELS = 4096, 512


@triton.jit(do_not_specialize=["count", "page_bytes", "out_page", "out_batch", "out_head"])
def _dequantize(
    sources,
    targets,
    like,
    count,
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
    token = tl.program_id(1) // tiles * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.program_id(1) % tiles * LANES + tl.arange(0, LANES)[None, :]
    wanted = (token < TOKENS) & (channel < WIDTH)
    layer = tl.program_id(0) // count
    page = (tl.program_id(0) % count).to(tl.int64)
    row = tl.program_id(2)
    start = tl.load(sources + layer).to(tl.pointer_type(tl.uint8)) + page * page_bytes
    out = tl.load(targets + layer).to(like.dtype)
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
    tl.store(out + place, number.to(like.dtype.element_ty), mask=wanted)


def dequantize(
    pages: Sequence[torch.Tensor],
    sections: tuple[Section, Section, Section],
    bits: Bits,
    group: tuple[int, int],
    outs: Sequence[torch.Tensor],
) -> None:
    """Decode the keys, or the values, of pages of several layers.

    Parameters
    ----------
    pages
        ``uint8 [pages, page bytes]`` of each layer, the last dimension contiguous; all of the same
        strides.
    sections
        Of their codes, scales and zeros.
    bits
        Of a code.
    group
        Tokens and channels that share a scale.
    outs
        ``[pages, batch, heads, tokens, width]`` of each layer, on the same device; all of the same
        strides, whichever.
    """
    out = outs[0]
    count, batch, heads, tokens, width = out.shape
    codes, scales, zeros = sections
    lanes = min(triton.next_power_of_2(width), _MOST_CHANNELS)
    rows = min(triton.next_power_of_2(tokens), _NUMBERS // lanes)
    tiles = triton.cdiv(tokens, rows) * triton.cdiv(width, lanes)
    with _on(out):
        # A multiplication and an addition in one would round once where torch rounds twice.
        _dequantize[len(outs) * count, tiles, batch * heads](
            _addresses(pages), _addresses(outs), out, count,
            pages[0].stride(0), *out.stride()[:3],
            CODES=codes.offset, SCALES=scales.offset, ZEROS=zeros.offset,
            HEADS=heads, TOKENS=tokens, WIDTH=width,
            GROUP_TOKENS=group[0], GROUP_CHANNELS=group[1],
            OUT_TOKEN=out.stride(3), OUT_CHANNEL=out.stride(4),
            PACKED=bits == 4, ROWS=rows, LANES=lanes,
            num_warps=_WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def _addresses(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Where tensors begin, int64 ``[tensors]`` on their device."""
    return torch.tensor([each.data_ptr() for each in tensors], device=tensors[0].device)


def _on(out: torch.Tensor) -> AbstractContextManager[object]:
    """Launch on the device of a tensor; Triton's interpreter has tensors on the CPU."""
    return torch.cuda.device(out.device) if out.is_cuda else nullcontext()
