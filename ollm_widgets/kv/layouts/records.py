"""Records in plain files: where one is, and what writes, reads and frees them.

Bytes only: what a record means is the caller's business, and so is keeping its `Extent`, without
which it is not found again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer


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
