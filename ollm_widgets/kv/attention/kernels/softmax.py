"""What every kernel of attention does with the scores of a tile."""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# Compile-time constants are upper case; a kernel takes all that it knows as its arguments.
# ruff: noqa: N803, PLR0917

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

# Scores are kept finite, as the difference of two infinities is not a number.
LEAST = tl.constexpr(-1.0e30)


@triton.jit
def softmax_step(scores, most, total):
    """Take a tile's scores [rows, tile] into the running maximum and sum."""
    higher = tl.maximum(most, tl.max(scores, 1))
    weights = tl.exp2(scores - higher[:, None])
    kept = tl.exp2(most - higher)
    return weights, kept, higher, total * kept + tl.sum(weights, 1)


@triton.jit
def store_split(out, stats, row, split, splits, live, most, total, VALUE: tl.constexpr):
    """Write a split's maximum and sum [rows]; the addresses of its parts [rows, 1]."""
    place = row * splits + split
    tl.store(stats + place * 2, most, mask=live)
    tl.store(stats + place * 2 + 1, total, mask=live)
    return out + place[:, None] * VALUE
