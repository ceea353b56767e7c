"""Which records one call writes or reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ollm_widgets.kv.layouts.records import Extent

# To transfer so much for nothing costs less than another call.
MOST_GAP_BYTES = 64 << 10

Placed: TypeAlias = tuple[Extent, memoryview]


@dataclass(slots=True)
class Run:
    """Records close to each other in a file.

    Parameters
    ----------
    file, offset
        Where the first one begins.
    records
        Each with its memory.
    parts
        The memory, with what fills the room between records.
    """

    file: str
    offset: int
    records: list[Placed]
    parts: list[memoryview]

    @property
    def end(self) -> int:
        """Byte after the last record."""
        last, _ = self.records[-1]
        return last.offset + last.size

    def add(self, record: Placed, between: memoryview) -> None:
        """Append a record, and what is in front of it."""
        self.parts += [between, record[1]] if between else [record[1]]
        self.records.append(record)


def write_runs(records: Iterable[Placed], room: Callable[[int], int]) -> Iterator[Run]:
    """Join records whose places follow each other.

    Parameters
    ----------
    records
        What to write.
    room
        Bytes from a record's first to the next place, for its size; what it does not fill is
        written as zeros.
    """
    run: Run | None = None
    for record in sorted(records, key=_place_of):
        extent, memory = record
        if run is not None and run.file == extent.file:
            last, _ = run.records[-1]
            gap = extent.offset - run.end
            if last.offset + room(last.size) == extent.offset and gap <= MOST_GAP_BYTES:
                run.add(record, memoryview(bytes(gap)))
                continue
        if run is not None:
            yield run
        run = Run(extent.file, extent.offset, [record], [memory])
    if run is not None:
        yield run


def read_runs(records: Iterable[Placed], scrap: memoryview) -> Iterator[Run]:
    """Join records with little between them.

    Parameters
    ----------
    records
        What to read.
    scrap
        `MOST_GAP_BYTES` that take what is between.
    """
    run: Run | None = None
    for record in sorted(records, key=_place_of):
        extent, memory = record
        if run is not None and run.file == extent.file:
            gap = extent.offset - run.end
            if 0 <= gap <= MOST_GAP_BYTES:
                run.add(record, scrap[:gap])
                continue
        if run is not None:
            yield run
        run = Run(extent.file, extent.offset, [record], [memory])
    if run is not None:
        yield run


def _place_of(record: Placed) -> tuple[str, int]:
    extent, _ = record
    return extent.file, extent.offset
