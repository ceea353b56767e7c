"""Attention to tokens that are on the device, in full precision."""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# Compile-time constants are upper case; a kernel takes all that it knows as its arguments.
# ruff: noqa: N803, PLR0917

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

from ollm_widgets.kv.attention.kernels.softmax import LEAST, softmax_step, store_split


@triton.jit(do_not_specialize=["first_split", "splits"])
def hot_splits(
    query,
    keys,
    values,
    position,
    cold_pages,
    mask,
    out,
    stats,
    scale,
    query_batch,
    query_head,
    batch_stride_k,
    head_stride_k,
    batch_stride_v,
    head_stride_v,
    mask_batch,
    ring,
    window,
    first_split,
    splits,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    KEY_LANES: tl.constexpr,
    VALUE_LANES: tl.constexpr,
    PAGE: tl.constexpr,
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    PAGED: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend to the hot tokens: token t is in slot t % ring of [batch, heads, ring, width]."""
    batch = (tl.program_id(0) // HEADS).to(tl.int64)
    head = tl.program_id(0) % HEADS
    split = tl.program_id(1)
    member = tl.arange(0, ROWS)
    channel = tl.arange(0, KEY_LANES)
    value_channel = tl.arange(0, VALUE_LANES)
    lane = tl.arange(0, TILE)
    live = member < GROUP
    heads = head * GROUP + member
    q = tl.load(
        query + batch * query_batch + heads[:, None] * query_head + channel[None, :],
        mask=live[:, None] & (channel < KEY)[None, :],
        other=0.0,
    )
    key_base = keys + batch * batch_stride_k + head * head_stride_k
    value_base = values + batch * batch_stride_v + head * head_stride_v
    end = tl.load(position).to(tl.int32) + 1
    begin = tl.maximum(end - window, 0)
    if PAGED:
        begin = tl.maximum(begin, tl.load(cold_pages).to(tl.int32) * PAGE)
    first = begin // TILE
    tiles = tl.cdiv(end, TILE) - first
    share = tl.cdiv(tiles, SPLITS)
    low = first + split * share
    high = tl.minimum(low + share, first + tiles)

    most = tl.full((ROWS,), LEAST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, VALUE_LANES), tl.float32)
    for tile in tl.range(low, high, num_stages=STAGES):
        token = tile * TILE + lane
        there = token < end
        slot = tile * TILE
        if PAGED:
            slot = slot % ring
        slots = slot + lane
        k = tl.load(
            key_base + slots[:, None] * KEY + channel[None, :],
            mask=there[:, None] & (channel < KEY)[None, :],
            other=0.0,
        )
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        seen = there
        if MASKED:
            seen = there & (tl.load(mask + batch * mask_batch + token, mask=there, other=0) != 0)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        weights, kept, most, total = softmax_step(scores, most, total)
        v = tl.load(
            value_base + slots[:, None] * VALUE + value_channel[None, :],
            mask=there[:, None] & (value_channel < VALUE)[None, :],
            other=0.0,
        )
        sums = tl.dot(weights.to(v.dtype), v, acc=sums * kept[:, None], input_precision=PRECISION)
    row = (batch * HEADS + head) * GROUP + member
    place = store_split(out, stats, row, first_split + split, splits, live, most, total, VALUE)
    wanted = live[:, None] & (value_channel < VALUE)[None, :]
    if high > low:
        tl.store(place + value_channel[None, :], sums, mask=wanted)
