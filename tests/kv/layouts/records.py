"""Builders that the tests of the layouts share: small files, so that little fills them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ollm_widgets.kv.layouts.chunks import Chunks
from ollm_widgets.kv.layouts.journal import Journal
from ollm_widgets.kv.layouts.pages import Pages
from ollm_widgets.kv.layouts.placed import PlacedRecords
from ollm_widgets.kv.layouts.records import Extent, RecordFiles
from ollm_widgets.kv.layouts.segments import Segments

RECORD_BYTES = 32

SMALL: dict[str, Callable[[Path, str], PlacedRecords]] = {
    "chunks": lambda folder, writer: Chunks(folder, writer, chunk_records=3),
    "pages": lambda folder, writer: Pages(folder, writer, RECORD_BYTES),
    "segments": lambda folder, writer: Segments(folder, writer, segment_bytes=4 * RECORD_BYTES),
    "journal": Journal,
}


def record(number: int, size: int = RECORD_BYTES) -> bytes:
    """Bytes that are not those of another number."""
    return (number.to_bytes(4, "little") * size)[:size]


def read(files: RecordFiles, extents: Sequence[Extent]) -> list[bytes]:
    """What is in the files now."""
    buffers = [bytearray(extent.size) for extent in extents]
    files.read(list(zip(extents, buffers, strict=True)))
    return [bytes(buffer) for buffer in buffers]


def names(folder: Path) -> list[str]:
    """Files of a folder."""
    return sorted(path.name for path in folder.iterdir())
