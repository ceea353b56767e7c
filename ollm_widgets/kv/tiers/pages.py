"""A page that has left the computing device, and where its bytes are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ollm_widgets.kv.codecs.page import PageShape
from ollm_widgets.kv.layouts.records import Extent


@dataclass(slots=True, eq=False)
class ColdPage:
    """Encoded keys and values of one page.

    Its bytes are in memory, on disk, or both; while a write is pending they are in memory.

    Parameters
    ----------
    shape
        As encoded.
    data
        ``uint8 [size_bytes]`` in host memory; None once they are on disk only.
    in_host
        Whether `data` stays when the page has been written.
    arrived
        On CUDA, when the copy into `data` is done.
    extent
        Where it is on disk.
    rows
        Which encoded sequence each sequence of the batch has now; None where they are the same.
        Beam search reorders in every step, so the bytes stay and this changes.
    freed
        Whether nobody wants it any more.
    """

    shape: PageShape
    size_bytes: int
    data: torch.Tensor | None
    in_host: bool
    arrived: torch.cuda.Event | None = None
    extent: Extent | None = None
    rows: tuple[int, ...] | None = None
    queued: bool = False
    freed: bool = field(default=False)

    def bytes_in_memory(self) -> torch.Tensor | None:
        """The bytes, complete, where they are in memory."""
        data = self.data
        if data is not None and self.arrived is not None:
            self.arrived.synchronize()
        return data


def select_rows(pages: Sequence[ColdPage], indices: Sequence[int]) -> None:
    """Let sequence i of the batch be what sequence ``indices[i]`` was."""
    known: dict[tuple[int, ...] | None, tuple[int, ...]] = {None: tuple(indices)}
    for page in pages:
        rows = known.get(page.rows)
        if rows is None:
            before = page.rows
            assert before is not None
            rows = known[before] = tuple(before[index] for index in indices)
        page.rows = rows


def alike(pages: Sequence[ColdPage], most_bytes: int) -> Iterator[Sequence[ColdPage]]:
    """Cut into runs that decode in one go: same shape and rows, `most_bytes` or one page each."""
    start = 0
    for index in range(1, len(pages) + 1):
        first = pages[start]
        if index < len(pages):
            page = pages[index]
            # As decoded, which is more where they are quantized.
            fits = (index + 1 - start) * first.shape.raw_bytes <= most_bytes
            if fits and page.shape == first.shape and page.rows == first.rows:
                continue
        yield pages[start:index]
        start = index
