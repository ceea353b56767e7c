"""How far a download is, told in all and file by file."""

from __future__ import annotations

from collections.abc import Mapping

from ollm_widgets.models.hub_listing import HubFile
from ollm_widgets.models.job_control import Progress, report

STAGE = "Download"
CHECK_STAGE = "Check files"


class Tally:
    """Tells two listeners, either of which may be absent.

    Parameters
    ----------
    in_all
        Hears the stage, bytes done and bytes in all.
    by_file
        Hears a file's name, its bytes done and its size, whenever its count has changed.
    """

    def __init__(self, in_all: Progress | None, by_file: Progress | None) -> None:
        self._in_all = in_all
        self._by_file = by_file
        self._told: dict[str, int] = {}

    def tell(self, done_bytes: Mapping[HubFile, int]) -> None:
        """Report the bytes that each file has by now."""
        for file, count in done_bytes.items():
            if self._told.get(file.name) != count:
                self._told[file.name] = count
                report(self._by_file, file.name, count, file.size_bytes)
        total = sum(file.size_bytes for file in done_bytes)
        report(self._in_all, STAGE, sum(done_bytes.values()), total)

    def check(self, _stage: str, done_bytes: int, size_bytes: int) -> None:
        """Report that a file that is here is read; for a large model this takes minutes."""
        report(self._in_all, CHECK_STAGE, done_bytes, size_bytes)
