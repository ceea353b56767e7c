"""Blocks in the index: found by their tokens, entered, and forgotten with all that follow."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ollm_widgets.kv.layouts.records import Extent
from ollm_widgets.kv.persistent.chain import ChainBlock, chain_of
from ollm_widgets.kv.persistent.index import DamagedIndex, Index

_BLOCK = "id, hash, parent, kind, ids"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]+\.[a-z]+")
_PART = "name, first, file, offset, size, checksum"


@dataclass(frozen=True, slots=True)
class Part:
    """A record of a block.

    Parameters
    ----------
    name
        What it holds.
    first
        Token of the block with which it begins.
    extent
        Where it is.
    """

    name: str
    first: int
    extent: Extent


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block as the index has it.

    Parameters
    ----------
    number
        In the index.
    chain
        Its hash and tokens.
    parent
        Number of the block before it; None for the first.
    kind
        Number of its kind.
    parts
        Its records, by name.
    """

    number: int
    chain: ChainBlock
    parent: int | None
    kind: int
    parts: dict[str, Part]


def kind_number(index: Index, text: str) -> int:
    """Number of a kind, entered if it is new; within a transaction."""
    index.rows("INSERT OR IGNORE INTO kinds (text) VALUES (?)", (text,))
    rows = index.rows("SELECT id FROM kinds WHERE text = ?", (text,))
    if not rows or not isinstance(rows[0][0], int):
        raise DamagedIndex("a kind of cache is not there after it was entered")
    return rows[0][0]


def kinds(index: Index) -> list[tuple[int, str]]:
    """Every kind with its number."""
    return [(number, text) for number, text in index.rows("SELECT id, text FROM kinds")]


def find_chain(index: Index, chain: Sequence[ChainBlock]) -> list[StoredBlock]:
    """The blocks of a chain that are here, from its first up to the first that is missing."""
    found: list[StoredBlock] = []
    for wanted in chain:
        before = found[-1].number if found else None
        rows = index.rows(f"SELECT {_BLOCK} FROM blocks WHERE hash = ?", (wanted.hash,))
        # What follows from the hash and is not so is damage.
        if not rows or rows[0][2] != before or rows[0][4] != wanted.ids:
            break
        found.append(_block_of(index, rows[0], wanted))
    return found


def following(
    index: Index, kind: int, parent: StoredBlock | None, root: bytes
) -> list[StoredBlock]:
    """The blocks of a kind that follow a block, or that come first.

    Parameters
    ----------
    root
        Hash with which the chains of the kind begin.
    """
    number, before, start = None, root, 0
    if parent is not None:
        number, before, start = parent.number, parent.chain.hash, parent.chain.stop
    found: list[StoredBlock] = []
    for row in index.rows(
        f"SELECT {_BLOCK} FROM blocks WHERE parent IS ? AND kind = ?", (number, kind)
    ):
        if not isinstance(row[4], bytes):
            raise DamagedIndex(f"block {row[0]} is {row}")
        for block in chain_of(before, row[4], start):
            # Of another root, or damaged.
            if block.hash == row[1] and block.ids == row[4]:
                found.append(_block_of(index, row, block))
    return found


def is_there(index: Index, number: int) -> bool:
    """Whether a block has not been forgotten."""
    return bool(index.rows("SELECT 1 FROM blocks WHERE id = ?", (number,)))


def enter_block(index: Index, block: ChainBlock, parent: int | None, kind: int) -> int:
    """Enter a block if it is new; within a transaction. Gives its number."""
    rows = index.rows("SELECT id, parent, ids FROM blocks WHERE hash = ?", (block.hash,))
    if rows and rows[0][1:] == (parent, block.ids):
        return int(rows[0][0])
    if rows:
        raise DamagedIndex(f"block {rows[0][0]} has tokens that its hash was not made of")
    return index.insert(
        "INSERT INTO blocks (hash, parent, kind, ids, last_used) VALUES (?, ?, ?, ?, ?)",
        (block.hash, parent, kind, block.ids, time.time()),
    )


def enter_part(index: Index, number: int, part: Part) -> Extent | None:
    """Enter a record of a block, unless a better one is there; within a transaction.

    Returns
    -------
    Extent or None
        What is not needed now: the record given, or the one it replaces.
    """
    rows = index.rows(
        f"SELECT {_PART} FROM parts WHERE block = ? AND name = ?", (number, part.name)
    )
    present = _part_of(rows[0]) if rows else None
    if present is not None and present.first <= part.first:
        return part.extent
    extent = part.extent
    index.rows(
        "INSERT OR REPLACE INTO parts (block, name, first, file, offset, size, checksum) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            number,
            part.name,
            part.first,
            extent.file,
            extent.offset,
            extent.size,
            checksum_bytes(extent),
        ),
    )
    return None if present is None else present.extent


def touch(index: Index, number: int) -> None:
    """Note that a block was used, and so all before it."""
    index.rows("UPDATE blocks SET last_used = ? WHERE id = ?", (time.time(), number))


def has_part(index: Index, number: int, part: Part) -> bool:
    """Whether a record still is where it was said to be."""
    rows = index.rows(
        f"SELECT {_PART} FROM parts WHERE block = ? AND name = ?", (number, part.name)
    )
    return bool(rows) and _part_of(rows[0]) == part


def forget_blocks(index: Index, number: int) -> list[Extent]:
    """Forget a block and all that follow it; within a transaction. Gives their records."""
    numbers = index.rows(
        "WITH RECURSIVE tree (id) AS (SELECT ? UNION SELECT blocks.id FROM blocks "
        "JOIN tree ON blocks.parent = tree.id) SELECT id FROM tree",
        (number,),
    )
    extents = extents_of(index, [each for (each,) in numbers])
    for table, column in (("parts", "block"), ("pins", "block"), ("blocks", "id")):
        index.each(f"DELETE FROM {table} WHERE {column} = ?", numbers)
    return extents


def extents_of(index: Index, numbers: Sequence[int]) -> list[Extent]:
    """The records of blocks."""
    found: list[Extent] = []
    for number in numbers:
        rows = index.rows(f"SELECT {_PART} FROM parts WHERE block = ?", (number,))
        found.extend(_part_of(row).extent for row in rows)
    return found


def checksum_bytes(extent: Extent) -> bytes:
    """As the index keeps it: SQLite's integers are signed."""
    return extent.checksum.to_bytes(8, "little")


def extent_of(file: object, offset: object, size: object, checksum: object) -> Extent:
    """From the columns of a row.

    Raises
    ------
    DamagedIndex
        When they cannot be those of a record.
    """
    if (
        isinstance(offset, int)
        and isinstance(size, int)
        and isinstance(checksum, bytes)
        and offset >= 0
        and size > 0
    ):
        return Extent(file_name(file), offset, size, int.from_bytes(checksum, "little"))
    raise DamagedIndex(f"the place of a record is {(file, offset, size, checksum)}")


def file_name(name: object) -> str:
    """Check the name of a file of records; it is opened, and deleted.

    Raises
    ------
    DamagedIndex
        When it is no name that was ever given to one.
    """
    if isinstance(name, str) and _FILE_NAME.fullmatch(name):
        return name
    raise DamagedIndex(f"a file of records is named {name!r}")


def _part_of(row: Sequence[Any]) -> Part:
    name, first, *place = row
    if not (isinstance(name, str) and isinstance(first, int) and first >= 0):
        raise DamagedIndex(f"a record is {tuple(row)}")
    return Part(name, first, extent_of(*place))


def _block_of(index: Index, row: Sequence[Any], chain: ChainBlock) -> StoredBlock:
    """From a row, whose tokens are those of `chain`."""
    number, _, parent, kind, _ = row
    if not (isinstance(number, int) and isinstance(kind, int)):
        raise DamagedIndex(f"block {number} is {tuple(row)}")
    parts = index.rows(f"SELECT {_PART} FROM parts WHERE block = ?", (number,))
    return StoredBlock(
        number, chain, parent, kind, {part.name: part for part in map(_part_of, parts)}
    )
