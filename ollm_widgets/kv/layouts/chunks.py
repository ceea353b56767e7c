"""A file for each fixed number of records."""

from __future__ import annotations

from pathlib import Path

from ollm_widgets.kv.layouts.appending import AppendOnlyRecords

CHUNK_RECORDS = 256


class Chunks(AppendOnlyRecords):
    """A chunk is full after so many records, and removed when none of them lives.

    Parameters
    ----------
    folder, writer
        See `open_layout`.
    chunk_records
        Records of a file.
    """

    suffix = ".chunk"

    def __init__(self, folder: Path, writer: str, *, chunk_records: int = CHUNK_RECORDS) -> None:
        super().__init__(folder, writer)
        self._chunk_records = chunk_records

    def _is_full(self, records: int, used_bytes: int, size: int) -> bool:
        return records >= self._chunk_records
