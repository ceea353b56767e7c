"""Writing and reading the pages of a cache in each layout, beside one plain file.

    python tests/bench/kv_layouts.py
    python tests/bench/kv_layouts.py --folder /mnt/fast --gigabytes 4 --record-bytes 80000

Records are pages of 64 tokens of one layer of Llama-3.1-8B, written 32 at a time (a page of every
layer) and read layer by layer; the plain file is written and read in calls of the same size, with
nothing but the bytes. Best of three; «cold» is after the page cache has forgotten the files, and
«/ cpu s» divides by the processor's seconds, which do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

import machine
from table import Table

from ollm_widgets.kv.layouts.opening import open_layout
from ollm_widgets.kv.layouts.records import Extent, RecordFiles

_LAYERS = 32
_ROUNDS = 3
_LAYOUTS = ("chunks", "pages", "segments", "journal")


class Contender(Protocol):
    """Something that keeps records."""

    def write(self, batch: Sequence[memoryview]) -> None:
        """Append a page of every layer."""

    def sync(self) -> None:
        """Have everything on the disk."""

    def read(self, layer: int, buffers: Sequence[memoryview]) -> None:
        """Read all pages of a layer."""

    def free_half(self) -> None:
        """Forget every other batch."""

    def close(self) -> None:
        """Remove the files."""


class Plain:
    """One file; a layer's pages lie behind each other, as if they had been written that way."""

    def __init__(self, folder: Path) -> None:
        self._file = FileIO(folder / "plain", "w+")

    def write(self, batch: Sequence[memoryview]) -> None:
        """Append what `batch` holds."""
        os.writev(self._file.fileno(), batch)

    def sync(self) -> None:
        """Have everything on the disk."""
        os.fsync(self._file.fileno())

    def read(self, layer: int, buffers: Sequence[memoryview]) -> None:
        """Read as many bytes."""
        for first in range(0, len(buffers), _LAYERS):
            part = buffers[first : first + _LAYERS]
            offset = (layer * len(buffers) + first) * len(part[0])
            os.preadv(self._file.fileno(), part, offset)

    def free_half(self) -> None:
        """Write over it from the beginning."""
        self._file.seek(0)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        Path(str(self._file.name)).unlink()


class Layout:
    """Records in a layout."""

    def __init__(self, files: RecordFiles) -> None:
        self._files = files
        self._batches: list[list[Extent]] = []

    def write(self, batch: Sequence[memoryview]) -> None:
        """Append a page of every layer."""
        self._batches.append(self._files.append(batch))

    def sync(self) -> None:
        """Have everything on the disk."""
        self._files.sync()

    def read(self, layer: int, buffers: Sequence[memoryview]) -> None:
        """Read all pages of a layer, and check them."""
        extents = [batch[layer] for batch in self._batches]
        self._files.read(list(zip(extents, buffers, strict=True)))

    def free_half(self) -> None:
        """Forget every other batch; a journal is compacted."""
        for batch in self._batches[::2]:
            self._files.free(batch)
        self._batches = self._batches[1::2]
        moved = self._files.compact()
        self._batches = [[moved.get(each, each) for each in batch] for batch in self._batches]

    def close(self) -> None:
        """Remove the files."""
        self._files.close(delete=True)


def contenders(folder: Path, record_bytes: int) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Each with its name."""
    yield "plain file", lambda: Plain(folder)
    for layout in _LAYOUTS:

        def opened(layout: str = layout) -> Layout:
            return Layout(open_layout(layout, folder, record_bytes=record_bytes, writer="bench"))

        yield layout, opened


def measure(
    made: Contender, folder: Path, batches: int, payloads: Sequence[memoryview]
) -> dict[str, float]:
    """Bytes per second of each part."""
    size = batches * sum(map(len, payloads))
    buffers = [memoryview(bytearray(len(payloads[0]))) for _ in range(batches)]
    found: dict[str, float] = {}

    @contextmanager
    def timed(name: str, count: int = size) -> Iterator[None]:
        began, began_cpu = time.perf_counter(), time.process_time()
        yield
        found[name] = count / (time.perf_counter() - began)
        found[f"{name} / cpu s"] = count / (time.process_time() - began_cpu)

    def read_all() -> None:
        for layer in range(_LAYERS):
            made.read(layer, buffers)

    began = time.perf_counter()
    with timed("write"):
        for _ in range(batches):
            made.write(payloads)
    made.sync()
    found["write, sync"] = size / (time.perf_counter() - began)
    with timed("read"):
        read_all()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with timed("read cold"):
        read_all()
    made.free_half()
    with timed("write again", size // 2):
        for _ in range(batches // 2):
            made.write(payloads)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--record-bytes", type=int, default=262_144)
    asked = parser.parse_args()
    batches = max(2, int(asked.gigabytes * 1e9 / (_LAYERS * asked.record_bytes)) // 2 * 2)
    payloads = [memoryview(os.urandom(asked.record_bytes)) for _ in range(_LAYERS)]

    parts = (
        "write", "write / cpu s", "write, sync", "read", "read / cpu s", "read cold", "write again",
    )  # fmt: skip
    table = Table("GB/s (x plain)", *parts, "")
    plain: dict[str, float] = {}
    folder = Path(tempfile.mkdtemp(dir=asked.folder))
    try:
        for name, opened in contenders(folder, asked.record_bytes):
            best: dict[str, float] = {}
            for _ in range(_ROUNDS):
                made = opened()
                found = measure(made, folder, batches, payloads)
                made.close()
                best = {part: max(found[part], best.get(part, 0.0)) for part in parts}
            plain = plain or best
            cells = [f"{best[part] / 1e9:.2f} ({best[part] / plain[part]:.2f})" for part in parts]
            table.add(name, *cells, "")
    finally:
        shutil.rmtree(folder)
    print(machine.describe())
    print(f"{batches * _LAYERS} records of {asked.record_bytes:,} bytes, in {asked.folder}")
    print(table)


if __name__ == "__main__":
    main()
