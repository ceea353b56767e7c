"""Files that only grow, and go when nothing in them lives."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from ollm_widgets.kv.layouts.placed import PlacedRecords
from ollm_widgets.kv.layouts.records import Extent


class AppendOnlyRecords(PlacedRecords):
    """Each record goes to the end of the newest file, until that is full."""

    def __init__(self, folder: Path, writer: str) -> None:
        super().__init__(folder, writer)
        self._newest: str | None = None
        self._newest_records = 0

    @abstractmethod
    def _is_full(self, records: int, used_bytes: int, size: int) -> bool:
        """Whether a file that was given `records` already has no room for `size` bytes more."""

    def _place(self, size: int) -> tuple[str, int]:
        name = self._newest
        if name is None or self._is_full(self._newest_records, self._sizes[name], size):
            name = self._newest = self._new_file()
            self._newest_records = 0
        offset = self._sizes[name]
        self._sizes[name] += size
        self._newest_records += 1
        return name, offset

    def _freed(self, extent: Extent) -> None:
        if self._live_in[extent.file]:
            return
        if extent.file == self._newest:
            self._newest = None
        self._drop_file(extent.file)

    def _adopted(self, name: str) -> None:
        """Nothing is appended to it."""
