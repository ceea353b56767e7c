"""The record files of a store, and which of them this process may write to and free in.

Every file belongs to one writer. What its process does not own it only reads; a record there that
is no longer needed is noted as dead, for the owner to free. The files of a writer that has ended
are taken over by whoever saves next.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.layouts.opening import open_layout
from ollm_widgets.kv.layouts.records import Extent, RecordFiles
from ollm_widgets.kv.persistent.blocks import checksum_bytes, extent_of, file_name
from ollm_widgets.kv.persistent.index import Index
from ollm_widgets.kv.processes import is_alive, this_process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer

    from ollm_widgets.planning.kv_presets import KVLayout

_FILE = re.compile(r"(?P<writer>\d+-\d+-[0-9a-f]+)-\d+\.[a-z]+")
_MOVED_BYTES = 64 << 20
# Of the layout with slots: records of all sizes share a file, and a later process reuses its slots.
_SLOT_BYTES = 16 << 10
_WITH_SLOTS = ".pages"
# A file of which less lives is written anew.
_LIVE_SHARE = 0.75
_NOBODY = ""


class Holdings:
    """Reads records of every writer; writes and frees those of one.

    Parameters
    ----------
    folder
        Of the record files.
    index
        Of the store.
    layout
        See `open_layout`.
    """

    def __init__(self, folder: Path, index: Index, layout: KVLayout) -> None:
        self._folder = folder
        self._index = index
        self._layout: KVLayout = layout
        self._writer, self._files = self._begin()
        self._taken_over: set[str] = set()

    def read(self, wanted: Sequence[tuple[Extent, Buffer]]) -> None:
        """Fill buffers with records.

        Raises
        ------
        KVPageError
            When one of them is not there as it was written.
        """
        while True:
            files = self._files
            try:
                return files.read(wanted)
            except ValueError as error:
                if files is self._files:
                    raise KVPageError(f"A place in the index cannot be: {error}.") from error
                # They were closed to begin new files: ask those who have the records now.

    def require_there(self, extent: Extent) -> None:
        """Check that a file is long enough for a record, before room is made for it.

        Raises
        ------
        KVPageError
            When it is not.
        """
        present = self._size_of(extent.file)
        if extent.offset + extent.size > present:
            raise KVPageError(
                f"{self._folder / extent.file} has {present:,} bytes, too few for the "
                f"{extent.size:,} at byte {extent.offset:,}."
            )

    def append(self, payloads: Sequence[Buffer]) -> list[Extent]:
        """Write records, which nobody finds before they are entered in the index.

        Raises
        ------
        OutOfMemory, KVPageError
            When the disk is full, or refuses; nothing is kept.
        """
        return self._files.append(payloads)

    def claim(self, extents: Iterable[Extent]) -> None:
        """Enter the files of new records as this writer's; within a transaction."""
        self._index.each(
            "INSERT OR IGNORE INTO files (name, writer) VALUES (?, ?)",
            [(name, self._writer) for name in {extent.file for extent in extents}],
        )

    def give_up(self, extents: Iterable[Extent]) -> list[Extent]:
        """Note records that no block has any more; within a transaction.

        Returns
        -------
        list of Extent
            Those to `free` after the transaction; the rest is for other writers.
        """
        own = [extent for extent in extents if self._is_own(extent.file)]
        self._index.each(
            "INSERT INTO dead (file, offset, size, checksum) VALUES (?, ?, ?, ?)",
            [
                (extent.file, extent.offset, extent.size, checksum_bytes(extent))
                for extent in extents
                if not self._is_own(extent.file)
            ],
        )
        return own

    def free(self, extents: Iterable[Extent]) -> None:
        """Use the room of own records again, or give it back."""
        for extent in extents:
            # One that is not known has been forgotten already.
            with suppress(ValueError, OSError):
                self._files.free([extent])

    def free_dead(self) -> None:
        """Free what others have noted as dead in own files."""
        with self._index.writing():
            rows = self._index.rows("SELECT rowid, file, offset, size, checksum FROM dead")
            own = [row for row in rows if self._is_own(row[1])]
            self._index.each("DELETE FROM dead WHERE rowid = ?", [(row[0],) for row in own])
        self.free(extent_of(*row[1:]) for row in own)

    def take_over(self) -> None:
        """Own the files of writers that have ended, and remove what they left unfinished."""
        rows = self._index.rows("SELECT DISTINCT writer FROM files")
        writers = {writer for (writer,) in rows} - {self._writer}
        self._adopt({each for each in writers if each == _NOBODY or not is_alive(each)})
        self._remove_unknown()
        self._forget_gone()

    def compact(self) -> None:
        """Move the records of own files that are partly dead, so that these can go.

        Raises
        ------
        OutOfMemory, KVPageError
            When the copies cannot be written; everything is as it was.
        """
        if self._layout == "journal":
            self._files.compact(self._enter_moved)
        elif names := self._partly_dead():
            if self._layout != "pages":
                # Copies go to new files, not behind the dead in the newest one.
                before, old = self._writer, self._files
                self._writer, self._files = self._begin()
                old.close(delete=False)
                self._adopt({before})
            for name in names:
                self._move(self._extents_in(name))
        self._forget_gone()

    def disk_bytes(self) -> int:
        """Bytes of all record files, less what in them is free or about to be."""
        if self._layout == "pages":
            # Whoever owns a file with slots uses those again that are free.
            others = sum(
                self._size_of(path.name)
                for path in self._record_files()
                if not path.name.endswith(_WITH_SLOTS)
            )
            return others + self.taken_bytes(_WITH_SLOTS)
        total = sum(self._size_of(path.name) for path in self._record_files())
        ((dead,),) = self._index.rows("SELECT coalesce(sum(size), 0) FROM dead")
        return max(total - int(dead), 0)

    def taken_bytes(self, suffix: str = "") -> int:
        """Bytes that live records take, of files with names that end so."""
        slot = self.room_for(1)
        ((taken,),) = self._index.rows(
            "SELECT coalesce(sum((size + ?1 - 1) / ?1 * ?1), 0) FROM parts WHERE file LIKE ?2",
            (slot, f"%{suffix}"),
        )
        return int(taken)

    def room_for(self, size: int) -> int:
        """Bytes that a record of a size takes, the rest of its slots included."""
        slot = _SLOT_BYTES if self._layout == "pages" else 1
        return -(-size // slot) * slot

    def close(self) -> None:
        """Close the files and leave them to whoever saves next."""
        with suppress(Exception), self._index.writing():
            self._index.rows(
                "UPDATE files SET writer = ? WHERE writer = ?", (_NOBODY, self._writer)
            )
        self._files.close(delete=False)

    def _begin(self) -> tuple[str, RecordFiles]:
        """Open files under a name that no other has."""
        writer = f"{this_process()}-{secrets.token_hex(4)}"
        return writer, open_layout(
            self._layout, self._folder, record_bytes=_SLOT_BYTES, writer=writer
        )

    def _adopt(self, writers: Collection[str]) -> None:
        """Own the files of these writers; those in which nothing lives are removed."""
        if not writers:
            return
        with self._index.writing():
            rows = self._index.rows("SELECT name, writer FROM files")
            names = {file_name(name) for name, writer in rows if writer in writers}
            self._index.each(
                "UPDATE files SET writer = ? WHERE name = ?",
                [(self._writer, name) for name in names],
            )
            self._index.each("DELETE FROM dead WHERE file = ?", [(name,) for name in names])
            extents = [extent for name in names for extent in self._extents_in(name)]
        self._taken_over |= names
        sizes = {name: self._size_of(name) for name in names}
        # What is cut shows when it is read.
        self._files.adopt(
            extent for extent in extents if extent.offset + extent.size <= sizes[extent.file]
        )
        for name in names - {extent.file for extent in extents}:
            (self._folder / name).unlink(missing_ok=True)

    def _is_own(self, name: str) -> bool:
        return name.startswith(f"{self._writer}-") or name in self._taken_over

    def _record_files(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if _FILE.fullmatch(path.name)]

    def _extents_in(self, name: str) -> list[Extent]:
        rows = self._index.rows(
            "SELECT file, offset, size, checksum FROM parts WHERE file = ? ORDER BY offset", (name,)
        )
        return [extent_of(*row) for row in rows]

    def _remove_unknown(self) -> None:
        """Remove files that a killed writer had begun and not entered yet."""
        paths = self._record_files()
        known = {name for (name,) in self._index.rows("SELECT name FROM files")}
        for path in paths:
            named = _FILE.fullmatch(path.name)
            if named and path.name not in known and not is_alive(named["writer"]):
                path.unlink(missing_ok=True)

    def _forget_gone(self) -> None:
        """Forget own files that have been removed."""
        with self._index.writing():
            names = self._index.rows("SELECT name FROM files WHERE writer = ?", (self._writer,))
            gone = [(name,) for (name,) in names if not (self._folder / name).exists()]
            self._index.each("DELETE FROM files WHERE name = ?", gone)

    def _partly_dead(self) -> list[str]:
        rows = self._index.rows(
            "SELECT name, (SELECT coalesce(sum(size), 0) FROM parts WHERE file = name) "
            "FROM files WHERE writer = ?",
            (self._writer,),
        )
        if self._layout == "pages":
            # Free slots are used again; in files of other layouts nothing is.
            rows = [row for row in rows if not row[0].endswith(_WITH_SLOTS)]
        return [name for name, live in rows if live < _LIVE_SHARE * self._size_of(name)]

    def _size_of(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except OSError:
            return 0

    def _move(self, extents: Sequence[Extent]) -> None:
        """Copy records behind the newest ones; what is damaged stays and shows when it is read."""
        batch: list[tuple[Extent, bytearray]] = []
        for extent in extents:
            memory = bytearray(extent.size)
            with suppress(KVPageError):
                self.read([(extent, memory)])
                batch.append((extent, memory))
            if sum(len(each) for _, each in batch) >= _MOVED_BYTES:
                self._write_again(batch)
                batch = []
        if batch:
            self._write_again(batch)

    def _write_again(self, batch: Sequence[tuple[Extent, bytearray]]) -> None:
        moved = self.append([memory for _, memory in batch])
        places = dict(zip((extent for extent, _ in batch), moved, strict=True))
        try:
            # What is entered as moved must outlive what it was copied from.
            self._files.sync()
            self._enter_moved(places)
        except BaseException:
            self.free(moved)
            raise
        self.free(places)

    def _enter_moved(self, places: Mapping[Extent, Extent]) -> None:
        with self._index.writing():
            self.claim(places.values())
            self._index.each(
                "UPDATE parts SET file = ?, offset = ? WHERE file = ? AND offset = ?",
                [
                    (after.file, after.offset, before.file, before.offset)
                    for before, after in places.items()
                ],
            )
            # What was noted as dead meanwhile is dead in its new place too.
            self._index.each(
                "UPDATE dead SET file = ?, offset = ? WHERE file = ? AND offset = ?",
                [
                    (after.file, after.offset, before.file, before.offset)
                    for before, after in places.items()
                ],
            )
