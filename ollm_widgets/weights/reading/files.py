"""Open files of a checkpoint, read by many threads, through the page cache or past it."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from ollm_widgets.errors import WeightReadError
from ollm_widgets.weights.checkpoint.index import CheckpointIndex, TensorSpan
from ollm_widgets.weights.pages import map_pages
from ollm_widgets.weights.reading.plan import ITEM_BYTES

# Of memory, offset and length for O_DIRECT; a multiple of what any common device wants.
_BLOCK_BYTES = 4096
_DIRECT_FLAG: int = getattr(os, "O_DIRECT", 0)


@dataclass(frozen=True, slots=True)
class Target:
    """Bytes of a tensor that are wanted, and the memory for them.

    Parameters
    ----------
    span
        The tensor, for messages.
    memory
        Exactly as long as what is wanted.
    """

    span: TensorSpan
    memory: memoryview


class CheckpointFiles:
    """The files of a checkpoint, each opened once, when it is first read.

    Parameters
    ----------
    index
        What the files must still be.
    direct
        Read past the page cache where the file system allows it.
    """

    def __init__(self, index: CheckpointIndex, *, direct: bool) -> None:
        self._index = index
        self._direct = direct and _DIRECT_FLAG != 0
        self._lock = threading.Lock()
        self._files: dict[Path, tuple[FileIO, bool]] = {}
        self._refused: list[FileIO] = []
        self._bounce = _Bounce()

    def read(self, path: Path, offset_bytes: int, targets: Sequence[Target]) -> None:
        """Fill `targets`, one after the other, from a place in a file.

        Raises
        ------
        CheckpointChangedError
            When the file is not the one that was indexed.
        WeightReadError
            When the file cannot be opened or read.
        """
        done = 0
        try:
            file, direct = self._open(path)
            done = self._fill(path, file.fileno(), direct, offset_bytes, targets)
            self._require_all(path, file.fileno(), offset_bytes, targets, done)
        except OSError as error:
            reason = error.strerror or str(error)
            raise _read_error(path, offset_bytes, targets, done, reason) from error

    def close(self) -> None:
        """Close every file; no read may be under way."""
        with self._lock:
            files = [file for file, _ in self._files.values()] + self._refused
            self._files, self._refused = {}, []
        for file in files:
            file.close()

    def _open(self, path: Path) -> tuple[FileIO, bool]:
        known = self._files.get(path)
        if known is not None:
            return known
        with self._lock:
            if path not in self._files:
                self._files[path] = self._opened(path, direct=self._direct)
            return self._files[path]

    def _opened(self, path: Path, *, direct: bool) -> tuple[FileIO, bool]:
        def open_with_flag(name: str, flags: int) -> int:
            return os.open(name, flags | os.O_CLOEXEC | (_DIRECT_FLAG if direct else 0))

        try:
            file = FileIO(str(path), "rb", opener=open_with_flag)
        except OSError as error:
            if direct and error.errno == errno.EINVAL:
                return self._opened(path, direct=False)
            raise
        try:
            self._index.require_same(path, os.fstat(file.fileno()))
        except BaseException:
            file.close()
            raise
        return file, direct

    def _fill(
        self, path: Path, file: int, direct: bool, offset: int, targets: Sequence[Target]
    ) -> int:
        """Bytes that came, counted from the first."""
        memory = [target.memory for target in targets]
        if not direct:
            return _read_buffered(file, offset, memory)
        try:
            return _read_direct(file, offset, memory, self._bounce.memory)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # Some file systems take the flag and refuse the read.
        with self._lock:
            refused, was_direct = self._files[path]
            if was_direct:
                self._files[path] = self._opened(path, direct=False)
                # Other threads may still be reading from it.
                self._refused.append(refused)
            file = self._files[path][0].fileno()
        return _read_buffered(file, offset, memory)

    def _require_all(
        self, path: Path, file: int, offset: int, targets: Sequence[Target], done: int
    ) -> None:
        if done < sum(len(target.memory) for target in targets):
            self._index.require_same(path, os.fstat(file))
            raise _read_error(path, offset, targets, done, "the file ends there")


def _read_error(
    path: Path, offset: int, targets: Sequence[Target], done: int, reason: str
) -> WeightReadError:
    position = offset + done
    lost = targets[-1]
    for target in targets:
        if done < len(target.memory):
            lost = target
            break
        done -= len(target.memory)
    missing = max(lost.span.offset_bytes + lost.span.size_bytes - position, 0)
    return WeightReadError(
        f"{path}: {missing:,} of {lost.span.size_bytes:,} bytes of tensor {lost.span.name!r} could "
        f"not be read from byte {position:,} on: {reason}.",
        path=path,
        tensor=lost.span.name,
        offset_bytes=position,
        missing_bytes=missing,
        hint="Try again; if it fails once more, check the disk and the file.",
    )


def _read_buffered(file: int, offset: int, memory: list[memoryview]) -> int:
    wanted = sum(map(len, memory))
    done = 0
    while done < wanted:
        count = os.preadv(file, memory, offset + done)
        if count == 0:
            break
        done += count
        if done < wanted:
            memory = _after(memory, count)
    return done


def _after(memory: list[memoryview], count: int) -> list[memoryview]:
    """What is left to fill after so many bytes."""
    for number, part in enumerate(memory):
        if count < len(part):
            return [part[count:], *memory[number + 1 :]]
        count -= len(part)
    return []


def _read_direct(file: int, offset: int, memory: list[memoryview], bounce: mmap.mmap) -> int:
    wanted = sum(map(len, memory))
    start = offset // _BLOCK_BYTES * _BLOCK_BYTES
    length = -(-(offset + wanted - start) // _BLOCK_BYTES) * _BLOCK_BYTES
    skipped = offset - start
    have = 0
    with memoryview(bounce) as blocks:
        while have < skipped + wanted:
            # A read that was cut short goes on from the last whole block.
            begin = have // _BLOCK_BYTES * _BLOCK_BYTES
            with blocks[begin:length] as rest:
                count = os.preadv(file, [rest], start + begin)
            if begin + count <= have:
                break
            have = begin + count
        done = max(min(have - skipped, wanted), 0)
        if done == wanted:
            # numpy copies without the interpreter's lock, a memoryview does not.
            source = np.frombuffer(blocks, np.uint8)
            position = skipped
            for part in memory:
                np.copyto(np.frombuffer(part, np.uint8), source[position : position + len(part)])
                position += len(part)
            del source
    return done


class _Bounce(threading.local):
    """Aligned memory of one thread, made when it is first needed."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None

    @property
    def memory(self) -> mmap.mmap:
        if self._memory is None:
            self._memory = map_pages(ITEM_BYTES + 2 * _BLOCK_BYTES)
        return self._memory
