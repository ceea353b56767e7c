"""Pages on disk: written behind by a thread of their own, read where they are wanted."""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch

from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.layouts.opening import open_layout
from ollm_widgets.kv.layouts.records import Extent, RecordFiles
from ollm_widgets.kv.tiers.folder import fresh_folder
from ollm_widgets.kv.tiers.pages import ColdPage
from ollm_widgets.planning.kv_presets import KVLayout


class DiskTier:
    """Writes, reads and frees the pages of one cache.

    One thread calls `write`, `free`, `raise_failure` and `close`; `read` is for any. Pages
    that could not be written stay in memory, and `raise_failure` says why.

    Parameters
    ----------
    layout
        How pages lie in files.
    parent
        Folder in which to make one, with the first page that is written.
    pending_bytes
        Bytes that may wait to be written before `write` waits itself.
    batch_bytes
        Bytes that are written at a time.
    """

    def __init__(
        self, layout: KVLayout, parent: Path, *, pending_bytes: int, batch_bytes: int
    ) -> None:
        self._layout: KVLayout = layout
        self._parent = parent
        self._folder: Path | None = None
        self._most_pending = pending_bytes
        self._batch_bytes = batch_bytes
        self._files: dict[int, RecordFiles] = {}
        # Where pages are, for those that a compaction moves.
        self._written: dict[Extent, ColdPage] = {}
        self._queue: deque[ColdPage] = deque()
        self._failed: list[ColdPage] = []
        self._failure: Exception | None = None
        self._failure_was_told = False
        self._pending = 0
        self._changed = threading.Condition()
        self._moving = threading.Lock()
        self._compact = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self.written_bytes = 0
        self.read_bytes = 0

    @property
    def folder(self) -> Path | None:
        """Where the files are; None before the first write."""
        return self._folder

    @property
    def pending_bytes(self) -> int:
        """Bytes in memory that have yet to be written."""
        return self._pending

    @property
    def live_bytes(self) -> int:
        """Bytes of pages on disk."""
        return sum(files.live_bytes for files in tuple(self._files.values()))

    # ------------------------------------------------------------------ the caller's thread

    def raise_failure(self) -> None:
        """Raise what the last write failed with; the next call tries it again first.

        Raises
        ------
        OutOfMemory
            When the disk was full.
        KVPageError
            When it refused for another reason.
        """
        if self._failure is None:
            return
        if self._failure_was_told:
            with self._changed:
                self._failure = None
                self._queue.extendleft(reversed(self._failed))
                self._failed.clear()
                self._changed.notify_all()
            self.drain()
        failure = self._failure
        self._failure_was_told = failure is not None
        if failure is not None:
            raise failure

    def write(self, pages: Sequence[ColdPage]) -> None:
        """Write pages behind; waits while too much is pending, unless writing has failed."""
        with self._changed:
            for page in pages:
                while self._pending >= self._most_pending and self._failure is None:
                    self._changed.wait()
                self._pending += page.size_bytes
                page.queued = True
                self._queue.append(page)
                self._start()
                self._changed.notify_all()

    def demote(self, page: ColdPage) -> None:
        """Let a page leave host memory; costs nothing where it has been written behind."""
        with self._changed:
            page.in_host = False
            if page.extent is not None:
                page.data = None
            elif page.queued:
                return
        if page.extent is None:
            self.write([page])

    def free(self, pages: Sequence[ColdPage]) -> None:
        """Forget pages; nobody may be reading them."""
        with self._moving, self._changed:
            for page in pages:
                page.freed = True
                page.data = None if not page.queued else page.data
                if page.extent is not None:
                    del self._written[page.extent]
                    self._files[page.size_bytes].free([page.extent])
                    page.extent = None
            if self._layout == "journal" and self._files:
                self._compact = True
                self._start()
                self._changed.notify_all()

    def drain(self) -> None:
        """Return when nothing waits to be written, or writing has failed."""
        with self._changed:
            while self._pending and self._failure is None:
                self._changed.wait()

    def close(self) -> None:
        """End the thread and remove the folder; what is pending is not written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if os.getpid() != self._process:
            return  # a forked child has neither the thread nor a right to the files
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for files in self._files.values():
            files.close(delete=True)
        self._files.clear()
        self._written.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------ any thread

    def read(self, wanted: Sequence[tuple[ColdPage, torch.Tensor]]) -> None:
        """Read pages that are on disk into host buffers ``uint8 [size_bytes]``.

        Raises
        ------
        KVPageError
            When one is not there any more, or not as it was written.
        """
        by_size: dict[int, list[tuple[ColdPage, torch.Tensor]]] = {}
        for page, buffer in wanted:
            by_size.setdefault(page.size_bytes, []).append((page, buffer))
        for size, items in by_size.items():
            while True:
                extents = [page.extent for page, _ in items]
                try:
                    self._files[size].read(
                        [
                            (extent, buffer.numpy().data)
                            for extent, (_, buffer) in zip(extents, items, strict=True)
                            if extent is not None
                        ]
                    )
                    break
                except KVPageError:
                    # Two compactions may have passed since the places were looked up.
                    if extents == [page.extent for page, _ in items]:
                        raise
            self.read_bytes += size * len(items)

    # ------------------------------------------------------------------ the writing thread

    def _start(self) -> None:
        if self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._work, name="kv-writer", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._queue or self._compact or self._closing):
                    self._changed.wait()
                if self._closing:
                    return
                compact, self._compact = self._compact, False
                batch = self._next_batch()
            if batch:
                self._append(batch)
            if compact:
                self._move_together()
            del batch

    def _next_batch(self) -> list[ColdPage]:
        batch: list[ColdPage] = []
        total = 0
        while self._queue and total < self._batch_bytes:
            if batch and self._queue[0].size_bytes != batch[0].size_bytes:
                break
            page = self._queue.popleft()
            if page.freed:
                self._settle(page)
                continue
            batch.append(page)
            total += page.size_bytes
        return batch

    def _append(self, batch: list[ColdPage]) -> None:
        extents: list[Extent] = []
        try:
            buffers = [data for page in batch if (data := page.bytes_in_memory()) is not None]
            files = self._files_of(batch[0].size_bytes)
            extents = files.append([data.numpy().data for data in buffers])
        except Exception as failure:
            with self._changed:
                self._failed.extend(batch)
                self._failure = failure
                self._changed.notify_all()
            return
        with self._changed:
            for page, extent in zip(batch, extents, strict=True):
                self.written_bytes += page.size_bytes
                if page.freed:
                    files.free([extent])
                else:
                    # In this order, for those who read it meanwhile.
                    page.extent = extent
                    self._written[extent] = page
                self._settle(page)

    def _settle(self, page: ColdPage) -> None:
        page.queued = False
        if page.freed or not page.in_host:
            page.data = None
        self._pending -= page.size_bytes
        self._changed.notify_all()

    def _files_of(self, size: int) -> RecordFiles:
        if size not in self._files:
            if self._folder is None:
                self._folder = fresh_folder(self._parent)
            self._files[size] = open_layout(
                self._layout, self._folder, record_bytes=size, writer=f"pages-{size}"
            )
        return self._files[size]

    def _move_together(self) -> None:
        with self._moving:
            for files in self._files.values():
                try:
                    moved = files.compact()
                except Exception as failure:
                    with self._changed:
                        self._failure = self._failure or failure
                    return
                for before, after in moved.items():
                    page = self._written.pop(before)
                    page.extent = after
                    self._written[after] = page
