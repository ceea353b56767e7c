"""Blocks that a process is using, which nobody may collect as long as it lives."""

from __future__ import annotations

from ollm_widgets.kv.persistent.index import Index
from ollm_widgets.kv.processes import is_alive, this_process


def pin(index: Index, block: int) -> int:
    """Keep a block, and so all blocks before it; within a transaction. Gives the pin's number."""
    return index.insert("INSERT INTO pins (block, process) VALUES (?, ?)", (block, this_process()))


def unpin(index: Index, number: int) -> None:
    """Let a block go; a pin that is gone already is no error."""
    index.rows("DELETE FROM pins WHERE id = ?", (number,))


def drop_stale_pins(index: Index) -> None:
    """Forget the pins of processes that have ended without letting go; within a transaction."""
    processes = [name for (name,) in index.rows("SELECT DISTINCT process FROM pins")]
    index.each(
        "DELETE FROM pins WHERE process = ?",
        [(name,) for name in processes if not is_alive(name)],
    )


def pinned_blocks(index: Index) -> set[int]:
    """Numbers of the blocks that are in use."""
    return {block for (block,) in index.rows("SELECT DISTINCT block FROM pins")}
