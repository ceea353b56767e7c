"""Reading a file with several threads for a bounded time, past the page cache and through it."""

from __future__ import annotations

import mmap
import os
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

# As the engine reads: eight threads reach what a page cache gives.
THREADS = 8
_BLOCK_BYTES = 8 << 20
# Smaller past the cache, so that a slow disk has finished some of them when time is up.
_DIRECT_BLOCK_BYTES = 2 << 20
_MOST_BYTES = 256 << 20
_DIRECT_S, _FILL_S, _CACHED_S = 0.45, 0.3, 0.2
_CACHED_PASSES = 4
_DIRECT_FLAG: int = getattr(os, "O_DIRECT", 0)


def read_speeds(path: Path) -> tuple[float | None, float | None]:
    """Return bytes per second past the page cache and through it; about a second in all.

    None where the file system does not read that way, or a file cannot be read.
    """
    if not hasattr(os, "preadv"):
        return None, None
    direct = None
    if _DIRECT_FLAG:
        direct = _Reading(path, _DIRECT_FLAG, _DIRECT_BLOCK_BYTES, _MOST_BYTES).run(_DIRECT_S)
    # What has come by the end of the first pass is in the page cache for the second.
    filling = _Reading(path, 0, _BLOCK_BYTES, _MOST_BYTES)
    if filling.run(_FILL_S) is None:
        return direct, None
    # The best of a few: what else runs here slows some of them.
    end = time.perf_counter() + _CACHED_S
    best = None
    for _ in range(_CACHED_PASSES):
        cached = _Reading(path, 0, _BLOCK_BYTES, filling.done_bytes).run(_CACHED_S)
        best = max(filter(None, (best, cached)), default=None)
        if time.perf_counter() > end:
            break
    return direct, best


class _Reading:
    """Threads that read the front of a file, block by block, until it is read or time is up.

    They are daemons: one that hangs in a dead network share is left behind.
    """

    def __init__(self, path: Path, flags: int, block_bytes: int, most_bytes: int) -> None:
        self.done_bytes = 0
        self._path = path
        self._flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | flags
        self._block_bytes = block_bytes
        self._most_bytes = most_bytes
        self._next = 0
        self._ready = 0
        self._ended = 0
        self._begun = False
        self._stopped = False
        self._changed = threading.Condition()

    def run(self, limit_s: float) -> float | None:
        """Bytes per second of the blocks that came in time; None if none did."""
        for _ in range(THREADS):
            threading.Thread(target=self._work, name="disk-measurement", daemon=True).start()
        with self._changed:
            # The clock starts when all have memory: the engine has its buffers beforehand.
            self._changed.wait_for(lambda: self._ready + self._ended == THREADS, limit_s)
            self._begun = True
            self._changed.notify_all()
            start = time.perf_counter()
            self._changed.wait_for(lambda: self._ended == THREADS, limit_s)
            if self.done_bytes == 0:
                # A slow disk gets as long again for its first block.
                self._changed.wait_for(lambda: self.done_bytes or self._ended == THREADS, limit_s)
            self._stopped = True
            seconds = time.perf_counter() - start
        return self.done_bytes / max(seconds, 1e-6) if self.done_bytes else None

    def _work(self) -> None:
        # What has come until an error counts.
        with suppress(OSError), ExitStack() as held:
            held.callback(self._end)
            file = os.open(self._path, self._flags)
            held.callback(os.close, file)
            blocks = min(os.fstat(file).st_size, self._most_bytes) // self._block_bytes
            block = held.enter_context(mmap.mmap(-1, self._block_bytes))
            for page in range(0, self._block_bytes, mmap.PAGESIZE):
                block[page] = 1
            with self._changed:
                self._ready += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._begun)
            while (number := self._take(blocks)) is not None:
                count = os.preadv(file, [block], number * self._block_bytes)
                with self._changed:
                    self.done_bytes += count
                    self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def _take(self, blocks: int) -> int | None:
        with self._changed:
            if self._stopped or self._next >= blocks:
                return None
            self._next += 1
            return self._next - 1
