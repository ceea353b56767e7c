"""The blocks of one store as bytes: found, read, written and collected, with no word of tensors.

Records are written first and entered afterwards, all of a call in one transaction: a process that
is killed leaves either a block that can be read or nothing. What is read is checked; a record
that is not as it was written is forgotten, with every block behind it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ollm_widgets.errors import OllmError
from ollm_widgets.kv.layouts.records import Extent
from ollm_widgets.kv.persistent import blocks, pins
from ollm_widgets.kv.persistent.blocks import Part, StoredBlock
from ollm_widgets.kv.persistent.chain import ChainBlock
from ollm_widgets.kv.persistent.collection import collect_blocks
from ollm_widgets.kv.persistent.holdings import Holdings
from ollm_widgets.kv.persistent.index import INDEX_NAME, Index, open_index

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ollm_widgets.planning.kv_presets import KVLayout

RECORDS_NAME = "records"
# What lives after a collection, as a share of the limit: so much less that the files, once the
# deadest are written anew, are below it, and that not every save has to collect. A journal is
# written anew when half of it is dead, other files when a quarter is.
_KEPT_SHARE = 0.75
_KEPT_SHARE_OF_JOURNAL = 0.5


@dataclass(frozen=True, slots=True)
class NewPart:
    """A record to be written.

    Parameters
    ----------
    name, first
        See `blocks.Part`.
    payload
        Its bytes, at least one.
    """

    name: str
    first: int
    payload: Buffer


@dataclass(frozen=True, slots=True)
class NewBlock:
    """A block with the records that it lacks; it may be there already."""

    chain: ChainBlock
    parts: tuple[NewPart, ...]


class ParentGone(Exception):  # noqa: N818  (never leaves this package: what was found is looked up again)
    """The block that new ones should follow was forgotten meanwhile."""


class Neighbours(Protocol):
    """Other stores that share a limit with this one."""

    def bytes(self) -> int:
        """What they take of the disk."""
        ...

    def free(self, wanted_bytes: int) -> None:
        """Have them take less, if they can."""
        ...


class BlockArchive:
    """Blocks in a folder; see the module. Threads may use it at once.

    Parameters
    ----------
    folder
        Of the store.
    layout
        Of the record files written here; those of other layouts are read all the same.
    limit_bytes
        Most bytes of record files; None = no limit.
    neighbours
        What else this limit is for.

    Raises
    ------
    DamagedIndex, sqlite3.Error, OSError
        See `open_index`.
    """

    def __init__(
        self,
        folder: Path,
        layout: KVLayout,
        limit_bytes: int | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        # Keys and values tell what was said.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records = folder / RECORDS_NAME
        self._records.mkdir(exist_ok=True)
        self._layout = layout
        self._limit_bytes = limit_bytes
        self._neighbours = neighbours
        self._index: Index = open_index(folder / INDEX_NAME)
        self.identity = index_identity(folder)
        self._holdings: Holdings | None = None
        # What writes, frees or moves records takes turns.
        self._changing = threading.RLock()
        self._has_taken_over = False

    def kinds(self) -> list[tuple[int, str]]:
        """Every kind of cache that was saved here, with its number."""
        return blocks.kinds(self._index)

    def kind_number(self, text: str) -> int:
        """Number of a kind, entered if it is new."""
        with self._index.writing():
            return blocks.kind_number(self._index, text)

    def find(self, chain: Sequence[ChainBlock]) -> list[StoredBlock]:
        """The blocks of a chain that are here, up to the first that is missing."""
        with self._index.reading():
            return blocks.find_chain(self._index, chain)

    def following(self, kind: int, parent: StoredBlock | None, root: bytes) -> list[StoredBlock]:
        """The blocks that follow a block, or that come first; see `blocks.following`."""
        with self._index.reading():
            return blocks.following(self._index, kind, parent, root)

    def pin(self, block: int) -> int | None:
        """Keep a block from being collected, and note that it was used.

        Returns
        -------
        int or None
            The pin, for `unpin`; None if the block is gone.
        """
        with self._index.writing():
            if not blocks.is_there(self._index, block):
                return None
            blocks.touch(self._index, block)
            return pins.pin(self._index, block)

    def unpin(self, pin: int) -> None:
        """Let a block go."""
        with self._index.writing():
            pins.unpin(self._index, pin)

    def read(self, wanted: Sequence[tuple[Part, Buffer]]) -> None:
        """Fill buffers with records, each of exactly its size.

        Raises
        ------
        KVPageError
            When one of them is not there as it was written.
        """
        self._opened().read([(part.extent, buffer) for part, buffer in wanted])

    def require_there(self, part: Part) -> None:
        """Check the size of a record before room is made for it; raises as `read`."""
        self._opened().require_there(part.extent)

    def forget(self, block: int, part: Part | None = None) -> None:
        """Forget a block and what follows it.

        Parameters
        ----------
        block
            Its number.
        part
            The record that could not be read: if another is in its place now, nothing is
            forgotten.
        """
        with self._changing:
            with self._index.writing():
                if part is not None and not blocks.has_part(self._index, block, part):
                    return
                own = self._opened().give_up(blocks.forget_blocks(self._index, block))
            self._opened().free(own)

    def drop_unused(self, block: int) -> None:
        """Forget a block that nothing follows and nobody uses, if that is so."""
        with self._changing:
            with self._index.writing():
                used = self._index.rows(
                    "SELECT 1 FROM blocks WHERE parent = ? UNION ALL "
                    "SELECT 1 FROM pins WHERE block = ?",
                    (block, block),
                )
                if used:
                    return
                own = self._opened().give_up(blocks.forget_blocks(self._index, block))
            self._opened().free(own)

    def add(self, kind: int, parent: int | None, new: Sequence[NewBlock]) -> list[int]:
        """Write blocks, each after the one before it, and make them visible at once.

        Parameters
        ----------
        kind
            Number of their kind.
        parent
            What the first one follows; None = nothing.
        new
            Those that are there already only get the records that they lack.

        Returns
        -------
        list of int
            Their numbers.

        Raises
        ------
        ParentGone
            When there is no `parent` any more.
        OutOfMemory, KVPageError, sqlite3.Error
            When the disk is full, or refuses; nothing is kept.
        """
        with self._changing:
            holdings = self._opened()
            payloads = [part.payload for block in new for part in block.parts]
            extents = holdings.append(payloads) if payloads else []
            try:
                with self._index.writing():
                    if parent is not None and not blocks.is_there(self._index, parent):
                        raise ParentGone
                    numbers, spare = self._enter(kind, parent, new, extents)
                    holdings.claim(extents)
                    own = holdings.give_up(spare)
            except BaseException:
                holdings.free(extents)
                raise
            holdings.free(own)
            return numbers

    def make_room(self, sizes: Sequence[int]) -> bool:
        """Collect blocks until records of these sizes fit below the limit; says whether they do."""
        with self._changing:
            holdings = self._opened()
            self._take_over(holdings)
            holdings.free_dead()
            if self._limit_bytes is None:
                return True
            wanted_bytes = sum(map(holdings.room_for, sizes))
            if self._excess(holdings, wanted_bytes) <= 0:
                return True
            # Another process may have ended, or may have freed what it shares a file with.
            holdings.take_over()
            self._compact(holdings)
            excess = self._excess(holdings, wanted_bytes)
            if excess > 0 and self._neighbours is not None:
                self._neighbours.free(excess)
                excess = self._excess(holdings, wanted_bytes)
            if excess <= 0:
                return True
            with self._index.writing():
                share = _KEPT_SHARE_OF_JOURNAL if self._layout == "journal" else _KEPT_SHARE
                kept = int(self._limit() * share)
                too_many = holdings.taken_bytes() + wanted_bytes - kept
                own = holdings.give_up(collect_blocks(self._index, too_many))
            holdings.free(own)
            self._compact(holdings)
            return self._excess(holdings, wanted_bytes) <= 0

    def _limit(self) -> int:
        """Most bytes of the record files here."""
        others = 0 if self._neighbours is None else self._neighbours.bytes()
        return max(0, (self._limit_bytes or 0) - others)

    def _excess(self, holdings: Holdings, wanted_bytes: int) -> int:
        """Bytes over the limit, with what is wanted."""
        return holdings.disk_bytes() + wanted_bytes - self._limit()

    def close(self) -> None:
        """Close the files; calling it again does nothing."""
        with self._changing:
            if self._holdings is not None:
                self._holdings.close()
                self._holdings = None
            self._index.close()

    def _opened(self) -> Holdings:
        with self._changing:
            if self._holdings is None:
                self._holdings = Holdings(self._records, self._index, self._layout)
            return self._holdings

    def _take_over(self, holdings: Holdings) -> None:
        if not self._has_taken_over:
            self._has_taken_over = True
            holdings.take_over()

    def _compact(self, holdings: Holdings) -> None:
        try:
            holdings.compact()
        except OllmError:
            # No room for copies: the store stays larger than it need be.
            return

    def _enter(
        self,
        kind: int,
        parent: int | None,
        new: Sequence[NewBlock],
        extents: Sequence[Extent],
    ) -> tuple[list[int], list[Extent]]:
        """Enter blocks and their records; gives the blocks' numbers, and what is not needed."""
        numbers: list[int] = []
        spare: list[Extent] = []
        places = iter(extents)
        for block in new:
            parent = blocks.enter_block(self._index, block.chain, parent, kind)
            numbers.append(parent)
            for part in block.parts:
                entered = Part(part.name, part.first, next(places))
                unused = blocks.enter_part(self._index, parent, entered)
                spare += [] if unused is None else [unused]
        return numbers, spare


def index_identity(folder: Path) -> tuple[int, int] | None:
    """Tell the index of a folder from one that is put in its place; None if there is none."""
    try:
        status = (folder / INDEX_NAME).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
