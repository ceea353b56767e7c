"""Attention to quantized pages, by their addresses; `kv.codecs.quantized` has their bytes."""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# Compile-time constants are upper case; a kernel takes all that it knows as its arguments.
# ruff: noqa: N803, PLR0915, PLR0917

from __future__ import annotations

import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

from ollm_widgets.kv.attention.kernels.softmax import LEAST, softmax_step, store_split


@triton.jit
def _read(codes, scales, zeros, wanted, PACKED: tl.constexpr, HIGH: tl.constexpr):
    """Decode quantized states whose codes, scales and zeros are at these addresses."""
    code = tl.load(codes, mask=wanted, other=0)
    if PACKED:
        code = (code >> 4) if HIGH else (code & 15)
    scale = tl.load(scales, mask=wanted, other=0.0).to(tl.float32)
    return code.to(tl.float32) * scale + tl.load(zeros, mask=wanted, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["first_page", "last_page", "first_split", "splits", "table_offset"])
def quantized_splits(
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
    table_offset,
    first_page,
    last_page,
    first_split,
    splits,
    KEY_SCALES: tl.constexpr,
    KEY_ZEROS: tl.constexpr,
    VALUE_CODES: tl.constexpr,
    VALUE_SCALES: tl.constexpr,
    VALUE_ZEROS: tl.constexpr,
    KEY_GROUP: tl.constexpr,
    KEY_GROUPS: tl.constexpr,
    VALUE_GROUP: tl.constexpr,
    VALUE_GROUPS: tl.constexpr,
    PACKED: tl.constexpr,
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
    """Attend to quantized pages; as `cold_splits`, the sections at offsets in bytes.

    The lanes of a width count its bytes: of a packed byte the even channel and the odd one have a
    product each. A tile lies in one group of tokens.
    """
    batch = (tl.program_id(0) // HEADS).to(tl.int64)
    head = tl.program_id(0) % HEADS
    split = tl.program_id(1)
    each = 2 if PACKED else 1
    member = tl.arange(0, ROWS)
    byte = tl.arange(0, KEY_LANES)
    value_byte = tl.arange(0, VALUE_LANES)
    lane = tl.arange(0, TILE)
    live = member < GROUP
    heads = head * GROUP + member
    key_bytes = (KEY + each - 1) // each
    value_bytes = (VALUE + each - 1) // each
    queries = query + batch * query_batch + heads[:, None] * query_head
    q = tl.load(
        queries + (byte * each)[None, :],
        mask=live[:, None] & (byte * each < KEY)[None, :],
        other=0.0,
    )
    if PACKED:
        q_odd = tl.load(
            queries + (byte * 2 + 1)[None, :],
            mask=live[:, None] & (byte * 2 + 1 < KEY)[None, :],
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
    odd_sums = tl.zeros((ROWS, VALUE_LANES), tl.float32)
    line = batch * HEADS + head
    for tile in tl.range(low, high, num_stages=STAGES):
        page = tile * TILE // PAGE
        inside = (tile * TILE) % PAGE
        address = tl.load(table + table_offset + (page - first_page))
        codes = tl.multiple_of(address.to(tl.pointer_type(tl.uint8)), 16)
        halves = tl.multiple_of(address.to(tl.pointer_type(tl.float16)), 16)
        rows = line * PAGE + inside + lane
        group = (line * KEY_GROUPS + inside // KEY_GROUP) * KEY
        even = (byte * each)[None, :]
        key_codes = codes + rows[:, None] * key_bytes + byte[None, :]
        wanted = even < KEY
        k = _read(
            key_codes,
            halves + KEY_SCALES // 2 + group + even,
            halves + KEY_ZEROS // 2 + group + even,
            wanted,
            PACKED,
            False,
        ).to(q.dtype)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if PACKED:
            k = _read(
                key_codes,
                halves + KEY_SCALES // 2 + group + even + 1,
                halves + KEY_ZEROS // 2 + group + even + 1,
                even + 1 < KEY,
                PACKED,
                True,
            ).to(q.dtype)
            scores = tl.dot(q_odd, tl.trans(k), acc=scores, input_precision=PRECISION)
        scores = scores * scale
        if MASKED:
            token = tile * TILE + lane
            seen = tl.load(mask + batch * mask_batch + token) != 0
            scores = tl.where(seen[None, :], scores, float("-inf"))
        weights, kept, most, total = softmax_step(scores, most, total)
        weights = weights.to(q.dtype)
        value_codes = codes + VALUE_CODES + rows[:, None] * value_bytes + value_byte[None, :]
        column = (value_byte * each)[None, :]
        places = rows[:, None] * VALUE_GROUPS + column // VALUE_GROUP
        v = _read(
            value_codes,
            halves + VALUE_SCALES // 2 + places,
            halves + VALUE_ZEROS // 2 + places,
            column < VALUE,
            PACKED,
            False,
        ).to(q.dtype)
        sums = tl.dot(weights, v, acc=sums * kept[:, None], input_precision=PRECISION)
        if PACKED:
            places = rows[:, None] * VALUE_GROUPS + (column + 1) // VALUE_GROUP
            v = _read(
                value_codes,
                halves + VALUE_SCALES // 2 + places,
                halves + VALUE_ZEROS // 2 + places,
                column + 1 < VALUE,
                PACKED,
                True,
            ).to(q.dtype)
            odd_sums = tl.dot(weights, v, acc=odd_sums * kept[:, None], input_precision=PRECISION)
    row = (batch * HEADS + head) * GROUP + member
    place = store_split(out, stats, row, first_split + split, splits, live, most, total, VALUE)
    column = (value_byte * each)[None, :]
    if high > low:
        tl.store(place + column, sums, mask=live[:, None] & (column < VALUE))
        if PACKED:
            tl.store(place + column + 1, odd_sums, mask=live[:, None] & (column + 1 < VALUE))
