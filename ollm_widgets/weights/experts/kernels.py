"""The Triton kernels that fetch chosen experts; `slots` describes what they do.

Importing this module needs Triton. A launch allocates nothing and waits for nothing, so it may be
captured in a CUDA graph, once each kernel has run outside of one: its first run compiles it.
"""
# Triton is not installed everywhere that types are checked, and a kernel cannot be annotated: it
# would look the annotations up as values.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, unused-ignore"
# A kernel's arguments are positional: that is how Triton passes them.
# ruff: noqa: PLR0917

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found,import-untyped]
import triton.language as tl  # type: ignore[import-not-found,import-untyped]

# Pairs that one program compares with each other; more are counted by torch.
MOST_PAIRS = 128
# Eight warps: a thread moves sixteen bytes at once, four times, which keeps enough reads of host
# memory under way to fill the wire.
_BLOCK_WORDS = 2048
_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@triton.jit
def _assign(index, remapped, chosen, usage, pairs, slots, experts, LANES: tl.constexpr):  # noqa: N803
    lane = tl.arange(0, LANES)
    expert = tl.load(index + lane, mask=lane < pairs, other=-1).to(tl.int32)
    valid = (lane < pairs) & (expert >= 0) & (expert < experts)
    expert = tl.where(valid, expert, experts)
    mine = expert[:, None]
    other = expert[None, :]
    same = mine == other
    # Both sums say which lane is the first of its expert: one by rows, one by columns.
    before = tl.sum((same & (lane[None, :] < lane[:, None])).to(tl.int32), axis=1)
    before_other = tl.sum((same & (lane[:, None] < lane[None, :])).to(tl.int32), axis=0)
    first = valid & (before == 0)
    first_other = (before_other == 0)[None, :] & (other < experts)
    slot = tl.sum(((other < mine) & first_other).to(tl.int32), axis=1)
    used = tl.sum(first.to(tl.int32), axis=0)
    tl.store(remapped + lane, tl.where(valid, slot, slots).to(tl.int64), mask=lane < pairs)
    tl.store(chosen + slot, expert.to(tl.int64), mask=first)
    unused = tl.full([LANES], -1, tl.int64)
    tl.store(chosen + lane, unused, mask=(lane >= used) & (lane < slots))
    once = tl.full([LANES], 1, tl.int32)
    tl.atomic_add(usage + expert, once, mask=first)


@triton.jit
def _gather(table, chosen, out, words, HINT: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    row = tl.program_id(1)
    expert = tl.load(chosen + row)
    if expert >= 0:
        # The hint is what lets a thread load sixteen bytes at once from an address in a table.
        address = tl.multiple_of(tl.load(table + expert), HINT)
        source = tl.multiple_of(address.to(tl.pointer_type(out.dtype.element_ty)), HINT)
        word = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        target = out + row.to(tl.int64) * words + word
        tl.store(target, tl.load(source + word, mask=word < words), mask=word < words)


def assign(
    index: torch.Tensor,
    remapped: torch.Tensor,
    chosen: torch.Tensor,
    usage: torch.Tensor,
    experts: int,
) -> None:
    """See `slots.assign_slots`; `index` has at most `MOST_PAIRS` entries."""
    pairs = index.numel()
    lanes = max(16, triton.next_power_of_2(max(pairs, chosen.numel())))
    with torch.cuda.device_of(index):
        _assign[(1,)](
            index, remapped, chosen, usage, pairs, chosen.numel(), experts, LANES=lanes, num_warps=4
        )


def gather(
    table: torch.Tensor, chosen: torch.Tensor, out: torch.Tensor, alignment_bytes: int
) -> None:
    """See `slots.gather_rows`."""
    rows = out.shape[0]
    if not out.numel():
        return
    width = min(alignment_bytes, 8)
    flat = out.view(-1).view(torch.uint8).view(_WORDS[width])
    words = flat.numel() // rows
    grid = (triton.cdiv(words, _BLOCK_WORDS), rows)
    with torch.cuda.device_of(out):
        _gather[grid](
            table, chosen, flat, words, HINT=alignment_bytes, BLOCK=_BLOCK_WORDS, num_warps=8
        )
