"""Records in plain files: where one is, and what writes, reads and frees them.

Bytes only: what a record means is the caller's business, and so is keeping its `Extent`, without
which it is not found again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ollm_widgets.planning.kv_presets import KVLayout


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a record is.

    Parameters
    ----------
    file
        Name within the folder.
    offset
        First byte.
    size
        Bytes.
    checksum
        xxh3 (64 bits) of the record.
    """

    file: str
    offset: int
    size: int
    checksum: int


class RecordFiles(Protocol):
    """Records in the files of a folder.

    Threads may append, read and free at the same time. What one of them frees must not be read
    by another from then on: its room may already hold something else.
    """

    @property
    def live_bytes(self) -> int:
        """Bytes of the records that are written and not freed."""
        ...

    @property
    def file_bytes(self) -> int:
        """Bytes of the files that these records take, with what is dead in them."""
        ...

    def append(self, payloads: Sequence[Buffer]) -> list[Extent]:
        """Write records; as few and as large writes as their places allow.

        Parameters
        ----------
        payloads
            One record each, contiguous, at least one byte. They are not kept.

        Raises
        ------
        OutOfMemory
            When the disk has no room; nothing of `payloads` is kept.
        KVPageError
            When the disk refuses for another reason; the same.
        """
        ...

    def read(self, wanted: Sequence[tuple[Extent, Buffer]]) -> None:
        """Fill buffers with records; what lies close together is read at once.

        Parameters
        ----------
        wanted
            Extents of this folder, whoever wrote them, each with a contiguous writable buffer of
            exactly its size.

        Raises
        ------
        KVPageError
            When a record is not there any more, or not as it was written. Other buffers may or
            may not be filled.
        """
        ...

    def free(self, extents: Sequence[Extent]) -> None:
        """Forget records; their room is used again, or given back.

        Raises
        ------
        ValueError
            If one of them is not live here; then none is forgotten.
        """
        ...

    def compact(
        self, committed: Callable[[Mapping[Extent, Extent]], None] | None = None
    ) -> Mapping[Extent, Extent]:
        """Move records together, where much of a file is dead and the layout does that.

        A caller with several threads lets none of them append between the moving and its own
        hearing of it, or the places of what was appended may be old ones already.

        Parameters
        ----------
        committed
            Called with what will be returned, if anything moves, when the copies are on the disk
            and the originals still are: who keeps extents on a disk writes the new ones down
            here. Appends and frees wait meanwhile; if it raises, nothing has moved.

        Returns
        -------
        Mapping
            The new place of each record that has moved. Until the next call, a record is also
            found at its old place.
        """
        ...

    def adopt(self, extents: Iterable[Extent]) -> None:
        """Take over records of an earlier process, so that they can be freed here.

        What is in their files and not among all adopted extents counts as dead. No other process
        may write to these files any more.
        """
        ...

    def sync(self) -> None:
        """Return when everything appended so far is on the disk, not only in the page cache."""
        ...

    def close(self, *, delete: bool) -> None:
        """Close the files.

        Parameters
        ----------
        delete
            Also remove those that hold records which were written or adopted here.
        """
        ...


def open_layout(layout: KVLayout, folder: Path, *, record_bytes: int, writer: str) -> RecordFiles:
    """Keep records in files of `folder`.

    Parameters
    ----------
    layout
        ``chunks``, ``pages``, ``segments`` or ``journal``.
    folder
        Made if it does not exist.
    record_bytes
        What most records take: the size of a slot of ``pages``. Others may be of any size.
    writer
        Begins the names of the files written here; no two that are open may share it. Letters,
        digits, ``-`` and ``_``.

    Raises
    ------
    ValueError
        For a layout that has no files, or a `writer` that cannot begin a file name.
    """
    from ollm_widgets.kv.layouts.chunks import Chunks
    from ollm_widgets.kv.layouts.journal import Journal
    from ollm_widgets.kv.layouts.pages import Pages
    from ollm_widgets.kv.layouts.segments import Segments

    if layout == "chunks":
        return Chunks(folder, writer)
    if layout == "pages":
        return Pages(folder, writer, record_bytes)
    if layout == "segments":
        return Segments(folder, writer)
    if layout == "journal":
        return Journal(folder, writer)
    raise ValueError(f"{layout!r} keeps nothing in files; use chunks, pages, segments or journal.")
