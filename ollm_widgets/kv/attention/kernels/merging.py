"""Putting splits of attention together."""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# Compile-time constants are upper case; a kernel takes all that it knows as its arguments.
# ruff: noqa: N803, PLR0917

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

from ollm_widgets.kv.attention.kernels.softmax import LEAST


@triton.jit(do_not_specialize=["splits"])
def merge_splits(
    parts,
    stats,
    out,
    splits,
    VALUE: tl.constexpr,
    VALUE_LANES: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Merge splits [rows, splits, width] to [rows, width]."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, VALUE_LANES)
    lane = tl.arange(0, AT_ONCE)
    most = tl.full((1,), LEAST, tl.float32)
    total = tl.zeros((1,), tl.float32)
    sums = tl.zeros((VALUE_LANES,), tl.float32)
    for start in range(0, splits, AT_ONCE):
        split = start + lane
        place = row * splits + split
        there = split < splits
        weight = tl.load(stats + place * 2 + 1, mask=there, other=0.0)
        # Nothing was written by a split that saw no token.
        there = weight > 0
        peak = tl.load(stats + place * 2, mask=there, other=LEAST)
        higher = tl.maximum(most, tl.max(peak, 0))
        share = tl.where(there, tl.exp2(peak - higher), 0.0)
        kept = tl.exp2(most - higher)
        part = tl.load(
            parts + place[:, None] * VALUE + channel[None, :],
            mask=there[:, None] & (channel < VALUE)[None, :],
            other=0.0,
        )
        sums = sums * kept + tl.sum(part * share[:, None], 0)
        total = total * kept + tl.sum(share * weight, 0)
        most = higher
    result = sums / tl.where(total > 0, total, 1.0)
    tl.store(out + row * VALUE + channel, result.to(out.dtype.element_ty), mask=channel < VALUE)
