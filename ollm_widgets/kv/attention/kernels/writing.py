"""Writing the token of a step."""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# Compile-time constants are upper case; a kernel takes all that it knows as its arguments.
# ruff: noqa: N803, PLR0917

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]


@triton.jit
def write_row(
    new_keys,
    new_values,
    keys,
    values,
    position,
    new_batch_k,
    new_head_k,
    new_batch_v,
    new_head_v,
    batch_stride_k,
    head_stride_k,
    batch_stride_v,
    head_stride_v,
    ring,
    HEADS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    KEY_LANES: tl.constexpr,
    VALUE_LANES: tl.constexpr,
):
    """Write one token's keys and values into the slot of its position."""
    batch = (tl.program_id(0) // HEADS).to(tl.int64)
    head = tl.program_id(0) % HEADS
    slot = tl.load(position) % ring
    channel = tl.arange(0, KEY_LANES)
    state = tl.load(
        new_keys + batch * new_batch_k + head * new_head_k + channel, mask=channel < KEY
    )
    place = keys + batch * batch_stride_k + head * head_stride_k + slot * KEY
    tl.store(place + channel, state, mask=channel < KEY)
    channel = tl.arange(0, VALUE_LANES)
    state = tl.load(
        new_values + batch * new_batch_v + head * new_head_v + channel, mask=channel < VALUE
    )
    place = values + batch * batch_stride_v + head * head_stride_v + slot * VALUE
    tl.store(place + channel, state, mask=channel < VALUE)
