"""One append-only file, written anew when more than half of it is dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.layouts.appending import AppendOnlyRecords
from ollm_widgets.kv.layouts.failures import write_failure
from ollm_widgets.kv.layouts.placed import Moved
from ollm_widgets.kv.layouts.records import Extent

if TYPE_CHECKING:
    from typing_extensions import Buffer

_COPY_BYTES = 32 << 20


class Journal(AppendOnlyRecords):
    """Records in the order in which they were written; see `open_layout` for the parameters."""

    suffix = ".journal"

    def __init__(self, folder: Path, writer: str) -> None:
        super().__init__(folder, writer)
        self._moved: dict[Extent, Extent] = {}

    def read(self, wanted: Sequence[tuple[Extent, Buffer]]) -> None:
        """Fill buffers with records, which may move meanwhile."""
        while True:
            moved = self._moved
            try:
                return super().read(wanted)
            except KVPageError:
                if moved is self._moved:
                    raise

    def compact(self, committed: Callable[[Moved], None] | None = None) -> Moved:
        """Copy what lives to a new file, if more than half of the bytes is dead.

        Raises
        ------
        OutOfMemory
            When the disk has no room for the copy; nothing has changed.
        KVPageError
            When the disk refuses for another reason; the same.
        """
        with self._books:
            while self._appending:
                self._books.wait()
            if sum(self._sizes.values()) <= 2 * self._live_bytes:
                return {}
            name = self._new_file()
            try:
                moved = self._copied(name)
                if committed is not None:
                    self._files.sync()
                    committed(moved)
            except BaseException as error:
                self._drop_file(name)
                if isinstance(error, OSError):
                    raise write_failure(self._folder, error, self._live_bytes) from error
                raise
            old = [other for other in self._sizes if other != name]
            self._live = {(extent.file, extent.offset): extent for extent in moved.values()}
            self._live_in = Counter({name: len(moved)})
            self._sizes[name] = self._live_bytes
            self._newest, self._newest_records = name, len(moved)
            self._moved = moved
            for other in old:
                self._drop_file(other)
            return dict(moved)

    def _is_full(self, records: int, used_bytes: int, size: int) -> bool:
        return False

    def _now(self, extent: Extent) -> Extent:
        return self._moved.get(extent, extent)

    def _copied(self, name: str) -> dict[Extent, Extent]:
        """Write what lives to a file, in its order; damage goes along and shows when read."""
        moved: dict[Extent, Extent] = {}
        end = 0
        for batch in _batches(sorted(self._live.values(), key=_place_of)):
            memory = memoryview(bytearray(sum(extent.size for extent in batch)))
            start = position = 0
            for extent in batch:
                moved[extent] = Extent(name, end + position, extent.size, extent.checksum)
                position += extent.size
            for run in _neighbours(batch):
                size = sum(extent.size for extent in run)
                # What is missing stays zero.
                with suppress(FileNotFoundError), self._files.use(run[0].file) as file:
                    file.read(run[0].offset, [memory[start : start + size]])
                start += size
            with self._files.use(name, write=True) as file:
                file.write(end, [memory])
            end += position
        return moved


def _place_of(extent: Extent) -> tuple[str, int]:
    return extent.file, extent.offset


def _batches(extents: list[Extent]) -> Iterator[list[Extent]]:
    """Extents that are copied at once, about `_COPY_BYTES` of them."""
    batch: list[Extent] = []
    size = 0
    for extent in extents:
        batch.append(extent)
        size += extent.size
        if size >= _COPY_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _neighbours(extents: list[Extent]) -> Iterator[list[Extent]]:
    """Extents without anything between them."""
    run: list[Extent] = []
    for extent in extents:
        if run and (run[-1].file, run[-1].offset + run[-1].size) != _place_of(extent):
            yield run
            run = []
        run.append(extent)
    if run:
        yield run
