"""What all layouts share: writing and reading records whose places something else chooses."""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import xxhash

from ollm_widgets.kv.layouts.failures import read_failure, write_failure
from ollm_widgets.kv.layouts.opened import OpenFiles
from ollm_widgets.kv.layouts.records import Extent
from ollm_widgets.kv.layouts.runs import MOST_GAP_BYTES, Run, read_runs, write_runs

if TYPE_CHECKING:
    from typing_extensions import Buffer

Moved: TypeAlias = Mapping[Extent, Extent]

_WRITER = re.compile(r"[A-Za-z0-9_-]+")


class PlacedRecords(ABC):
    """`RecordFiles` without a choice of places; see there for what the methods do.

    Parameters
    ----------
    folder
        Made if it does not exist.
    writer
        Begins the names of the files.
    """

    suffix: ClassVar[str]

    def __init__(self, folder: Path, writer: str) -> None:
        if not _WRITER.fullmatch(writer):
            raise ValueError(f"{writer!r} cannot begin a file name: use letters, digits, - and _.")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._writer = writer
        self._files = OpenFiles(folder)
        # Guards everything below. Places are chosen under it, what goes there is written without.
        self._books = threading.Condition()
        self._live: dict[tuple[str, int], Extent] = {}
        self._live_in: Counter[str] = Counter()
        self._live_bytes = 0
        self._sizes: dict[str, int] = {}
        self._appending = 0
        self._next_number = self._first_number()
        self._scrap = memoryview(bytearray(MOST_GAP_BYTES))

    @property
    def live_bytes(self) -> int:
        """Bytes of the records that are written and not freed."""
        return self._live_bytes

    @property
    def file_bytes(self) -> int:
        """Bytes of the files that these records take, with what is dead in them."""
        with self._books:
            return sum(self._sizes.values())

    def append(self, payloads: Sequence[Buffer]) -> list[Extent]:
        """Write records."""
        parts = [_bytes_of(payload) for payload in payloads]
        if not all(map(len, parts)):
            raise ValueError("A record needs at least one byte.")
        checksums = [_checksum(part) for part in parts]
        extents: list[Extent] = []
        with self._books:
            self._appending += 1
        try:
            with self._books:
                for part, checksum in zip(parts, checksums, strict=True):
                    file, offset = self._place(len(part))
                    extents.append(Extent(file, offset, len(part), checksum))
                    self._enter(extents[-1])
            for run in write_runs(zip(extents, parts, strict=True), self._room):
                with self._files.use(run.file, write=True) as file_now:
                    file_now.write(run.offset, run.parts)
        except BaseException as error:
            with self._books:
                self._forget(extents)
            if isinstance(error, OSError):
                needed_bytes = sum(map(len, parts))
                raise write_failure(self._folder, error, needed_bytes) from error
            raise
        finally:
            with self._books:
                self._appending -= 1
                self._books.notify_all()
        return extents

    def read(self, wanted: Sequence[tuple[Extent, Buffer]]) -> None:
        """Fill buffers with records."""
        records = [(self._now(extent), _bytes_of(buffer)) for extent, buffer in wanted]
        for extent, memory in records:
            if len(memory) != extent.size:
                raise ValueError(
                    f"A record of {extent.size:,} bytes cannot be read into {len(memory):,}."
                )
            if memory.readonly:
                raise ValueError("A record can only be read into a writable buffer.")
        for run in read_runs(records, self._scrap):
            self._read(run)

    def free(self, extents: Sequence[Extent]) -> None:
        """Forget records."""
        with self._books:
            now = [self._now(extent) for extent in extents]
            for extent in now:
                if self._live.get((extent.file, extent.offset)) != extent:
                    raise ValueError(f"{extent} is not live: freed before, or not from here.")
            if len(set(now)) < len(now):
                raise ValueError("A record cannot be freed twice.")
            self._forget(now)

    def compact(self, committed: Callable[[Moved], None] | None = None) -> Moved:
        """Move nothing: room is used again, or given back, without."""
        return {}

    def adopt(self, extents: Iterable[Extent]) -> None:
        """Take over records of an earlier process."""
        with self._books:
            new = [each for each in extents if (each.file, each.offset) not in self._live]
            for extent in new:
                self._enter(extent)
            for name in {extent.file for extent in new}:
                self._files.take_over(name)
                self._sizes[name] = max(self._sizes.get(name, 0), self._size_on_disk(name))
                self._adopted(name)

    def sync(self) -> None:
        """Return when everything appended so far is on the disk."""
        self._files.sync()

    def close(self, *, delete: bool) -> None:
        """Close the files, and delete them if asked."""
        with self._books:
            while self._appending:
                self._books.wait()
            if delete:
                for name in list(self._sizes):
                    self._drop_file(name)
                self._live.clear()
                self._live_bytes = 0
            self._files.close()

    @abstractmethod
    def _place(self, size: int) -> tuple[str, int]:
        """File and offset where a record of `size` bytes goes; `_sizes` has grown for it."""

    @abstractmethod
    def _freed(self, extent: Extent) -> None:
        """Make use of the room of a record that was just forgotten."""

    @abstractmethod
    def _adopted(self, name: str) -> None:
        """Note a file of which records were adopted."""

    def _room(self, size: int) -> int:
        """Bytes from a record's first to the place after it."""
        return size

    def _now(self, extent: Extent) -> Extent:
        """Where a record is that may have moved."""
        return extent

    def _read(self, run: Run) -> None:
        try:
            with self._files.use(run.file) as file:
                end = run.offset + file.read(run.offset, run.parts)
        except (OSError, OverflowError) as error:
            first, _ = run.records[0]
            reason = getattr(error, "strerror", None) or str(error)
            raise read_failure(self._folder, first, reason) from error
        for extent, memory in run.records:
            missing = extent.offset + extent.size - end
            if missing > 0:
                reason = f"the file ends {missing:,} bytes too early"
                raise read_failure(self._folder, extent, reason)
            if _checksum(memory) != extent.checksum:
                reason = "they are not those that were written"
                raise read_failure(self._folder, extent, reason)

    def _new_file(self) -> str:
        name = f"{self._writer}-{self._next_number:06d}{self.suffix}"
        self._next_number += 1
        self._files.create(name)
        self._sizes[name] = 0
        return name

    def _drop_file(self, name: str) -> None:
        del self._sizes[name]
        self._live_in.pop(name, None)
        self._files.remove(name)

    def _enter(self, extent: Extent) -> None:
        self._live[extent.file, extent.offset] = extent
        self._live_in[extent.file] += 1
        self._live_bytes += extent.size

    def _forget(self, extents: Iterable[Extent]) -> None:
        for extent in extents:
            del self._live[extent.file, extent.offset]
            self._live_in[extent.file] -= 1
            self._live_bytes -= extent.size
            self._freed(extent)

    def _first_number(self) -> int:
        """Number that no file of this writer has: what is there is never written over."""
        pattern = re.compile(rf"{re.escape(self._writer)}-(\d+)\..*")
        matches = (pattern.fullmatch(path.name) for path in self._folder.iterdir())
        return max((int(match[1]) for match in matches if match), default=0) + 1

    def _size_on_disk(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except OSError:
            return 0


def _bytes_of(buffer: Buffer) -> memoryview:
    return memoryview(buffer).cast("B")


def _checksum(data: memoryview) -> int:
    # The function that does this at once keeps the interpreter to itself meanwhile, and so all
    # other threads that read.
    state = xxhash.xxh3_64()
    state.update(data)
    return state.intdigest()
