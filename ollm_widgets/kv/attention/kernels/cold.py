"""Attention to pages in full precision, by their addresses."""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# Compile-time constants are upper case; a kernel takes all that it knows as its arguments.
# ruff: noqa: N803, PLR0917

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

from ollm_widgets.kv.attention.kernels.softmax import LEAST, softmax_step, store_split


@triton.jit(do_not_specialize=["first_page", "last_page", "first_split", "splits", "table_offset"])
def cold_splits(
    query,
    table,
    position,
    cold_pages,
    mask,
    out,
    stats,
    scale,
    query_batch,
    query_head,
    mask_batch,
    window,
    value_offset,
    table_offset,
    first_page,
    last_page,
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
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Attend to full-precision pages ``first_page`` up to the lesser of `last_page` and all cold.

    Page p is at the address ``table[table_offset + p - first_page]``: keys [batch, heads, page,
    width], and `value_offset` elements further on the values.
    """
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
    begin = tl.maximum(tl.load(position).to(tl.int32) + 1 - window, 0)
    stop = tl.minimum(tl.load(cold_pages).to(tl.int32), last_page)
    first = tl.maximum(first_page, begin // PAGE) * (PAGE // TILE)
    tiles = tl.maximum(stop * (PAGE // TILE) - first, 0)
    share = tl.cdiv(tiles, SPLITS)
    low = first + split * share
    high = tl.minimum(low + share, first + tiles)

    most = tl.full((ROWS,), LEAST, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, VALUE_LANES), tl.float32)
    element = query.dtype.element_ty
    line = (batch * HEADS + head) * PAGE
    for tile in tl.range(low, high, num_stages=STAGES):
        page = tile * TILE // PAGE
        address = tl.load(table + table_offset + (page - first_page))
        keys = tl.multiple_of(address.to(tl.pointer_type(element)), 16)
        rows = line + (tile * TILE) % PAGE + lane
        k = tl.load(
            keys + rows[:, None] * KEY + channel[None, :],
            mask=(channel < KEY)[None, :],
            other=0.0,
        )
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if MASKED:
            token = tile * TILE + lane
            seen = tl.load(mask + batch * mask_batch + token) != 0
            scores = tl.where(seen[None, :], scores, float("-inf"))
        weights, kept, most, total = softmax_step(scores, most, total)
        v = tl.load(
            keys + value_offset + rows[:, None] * VALUE + value_channel[None, :],
            mask=(value_channel < VALUE)[None, :],
            other=0.0,
        )
        sums = tl.dot(weights.to(v.dtype), v, acc=sums * kept[:, None], input_precision=PRECISION)
    row = (batch * HEADS + head) * GROUP + member
    place = store_split(out, stats, row, first_split + split, splits, live, most, total, VALUE)
    wanted = live[:, None] & (value_channel < VALUE)[None, :]
    if high > low:
        tl.store(place + value_channel[None, :], sums, mask=wanted)
