"""Reads and writes at a place of a file, of many buffers at once, by many threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from io import FileIO

# Linux takes at most 1024 parts in one call, macOS less than 2 GiB.
_MOST_PARTS = 512
_MOST_BYTES = 256 << 20
_HAS_VECTORS = hasattr(os, "preadv") and hasattr(os, "pwritev")


class PositionalFile:
    """An open file without a position of its own.

    Parameters
    ----------
    file
        Unbuffered; closed by `close`.
    vectors
        Whether the system's calls for many buffers at a place are used.
    """

    def __init__(self, file: FileIO, *, vectors: bool = _HAS_VECTORS) -> None:
        self._file = file
        self._vectors = vectors
        self._seeking = threading.Lock()

    def read(self, offset: int, parts: Sequence[memoryview]) -> int:
        """Fill `parts` one after the other; gives the bytes that came before the file's end."""
        done = 0
        for batch in _batches(parts):
            rest = batch
            while rest:
                count = self._read_some(offset + done, rest)
                if count == 0:
                    return done
                done += count
                rest = _after(rest, count)
        return done

    def write(self, offset: int, parts: Sequence[memoryview]) -> None:
        """Write all of `parts` one after the other."""
        for batch in _batches(parts):
            rest = batch
            while rest:
                count = self._write_some(offset, rest)
                offset += count
                rest = _after(rest, count)

    def truncate(self, size: int) -> None:
        """Cut the file where it is longer."""
        with self._seeking:
            if os.fstat(self._file.fileno()).st_size > size:
                self._file.truncate(size)

    def sync(self) -> None:
        """Return when what was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; nothing may be under way."""
        self._file.close()

    def _read_some(self, offset: int, parts: list[memoryview]) -> int:
        if self._vectors:
            return os.preadv(self._file.fileno(), parts, offset)
        with self._seeking:
            self._file.seek(offset)
            return self._file.readinto(parts[0]) or 0

    def _write_some(self, offset: int, parts: list[memoryview]) -> int:
        if self._vectors:
            return os.pwritev(self._file.fileno(), parts, offset)
        with self._seeking:
            self._file.seek(offset)
            return self._file.write(parts[0]) or 0


def _batches(parts: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """What one call takes at once."""
    batch: list[memoryview] = []
    size = 0
    for whole in parts:
        for start in range(0, len(whole), _MOST_BYTES):
            part = whole[start : start + _MOST_BYTES]
            if batch and (len(batch) == _MOST_PARTS or size + len(part) > _MOST_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(part)
            size += len(part)
    if batch:
        yield batch


def _after(parts: list[memoryview], count: int) -> list[memoryview]:
    """What is left after so many bytes."""
    for number, part in enumerate(parts):
        if count < len(part):
            return [part[count:], *parts[number + 1 :]]
        count -= len(part)
    return []
