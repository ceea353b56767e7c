"""Append-only files of a bounded size."""

from __future__ import annotations

from pathlib import Path

from ollm_widgets.kv.layouts.appending import AppendOnlyRecords

SEGMENT_BYTES = 64 << 20


class Segments(AppendOnlyRecords):
    """A segment takes records up to its size, and is removed when none of them lives.

    Parameters
    ----------
    folder, writer
        See `open_layout`.
    segment_bytes
        Most bytes of a file; a record that is larger has a file for itself.
    """

    suffix = ".segment"

    def __init__(self, folder: Path, writer: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        super().__init__(folder, writer)
        self._segment_bytes = segment_bytes

    def _is_full(self, records: int, used_bytes: int, size: int) -> bool:
        return records > 0 and used_bytes + size > self._segment_bytes
