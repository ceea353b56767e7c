"""Which blocks go when a store is full: ends of conversations, the least recently used first.

Only a block that no other follows can go, so what two conversations share stays until the last
of them is gone. A block was used whenever one behind it was.
"""

from __future__ import annotations

import heapq

from ollm_widgets.kv.layouts.records import Extent
from ollm_widgets.kv.persistent.blocks import extents_of
from ollm_widgets.kv.persistent.index import Index
from ollm_widgets.kv.persistent.pins import drop_stale_pins, pinned_blocks


def collect_blocks(index: Index, wanted_bytes: int) -> list[Extent]:
    """Forget blocks until their records sum up to `wanted_bytes`; within a transaction.

    Parameters
    ----------
    index
        Of the store.
    wanted_bytes
        How much should become free. What is pinned stays, so it may be less.

    Returns
    -------
    list of Extent
        The records of the blocks that went.
    """
    drop_stale_pins(index)
    pinned = pinned_blocks(index)
    parents: dict[int, int | None] = {}
    used: dict[int, float] = {}
    followers: dict[int, int] = {}
    for number, parent, last_used in index.rows("SELECT id, parent, last_used FROM blocks"):
        parents[number], used[number] = parent, last_used
        if parent is not None:
            followers[parent] = followers.get(parent, 0) + 1
    ends = [
        (used[number], number)
        for number in parents
        if not followers.get(number) and number not in pinned
    ]
    heapq.heapify(ends)
    gone: list[int] = []
    freed: list[Extent] = []
    touched: set[int] = set()
    freed_bytes = 0
    while ends and freed_bytes < wanted_bytes:
        _, number = heapq.heappop(ends)
        extents = extents_of(index, [number])
        freed += extents
        freed_bytes += sum(extent.size for extent in extents)
        gone.append(number)
        parent = parents[number]
        if parent is None or parent not in parents:
            continue
        used[parent] = max(used[parent], used[number])
        touched.add(parent)
        followers[parent] -= 1
        if not followers[parent] and parent not in pinned:
            heapq.heappush(ends, (used[parent], parent))
    index.each("DELETE FROM parts WHERE block = ?", [(number,) for number in gone])
    index.each("DELETE FROM blocks WHERE id = ?", [(number,) for number in gone])
    index.each(
        "UPDATE blocks SET last_used = ? WHERE id = ?",
        [(used[number], number) for number in touched - set(gone)],
    )
    return freed
