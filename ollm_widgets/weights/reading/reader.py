"""Threads that fill buffers with the tensors of a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import torch

from ollm_widgets.errors import OllmError, RuntimeClosedError
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout, require_buffer
from ollm_widgets.weights.checkpoint.recipe import TensorRecipe
from ollm_widgets.weights.reading.files import CheckpointFiles
from ollm_widgets.weights.reading.pending import PendingRead
from ollm_widgets.weights.reading.plan import ReadPlan, plan_layout, plan_rows
from ollm_widgets.weights.reading.work import CastScratch, ReadWork

__all__ = ["PendingRead", "WeightReader"]


class WeightReader:
    """Reads layers from disk with several threads, in the order in which they are asked for.

    An error of one read leaves the reader as it was. Use it as a context, or call `close`.

    Parameters
    ----------
    index
        The checkpoint.
    threads
        How many read at once; eight reach what a page cache gives.
    direct
        Read past the page cache (O_DIRECT), where the file system allows it: for checkpoints
        that do not fit in it, so that the stream does not evict what is kept.
    """

    def __init__(self, index: CheckpointIndex, *, threads: int = 8, direct: bool = False) -> None:
        self._index = index
        self._threads = threads
        self._files = CheckpointFiles(index, direct=direct)
        self._scratch = CastScratch()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="weight-reader")
        self._lock = threading.Lock()
        self._closed = False
        self._pending: set[PendingRead] = set()
        # A layer is read once a token, and its plan is the same each time.
        self._plans: WeakKeyDictionary[LayerLayout, ReadPlan] = WeakKeyDictionary()

    def read(self, layout: LayerLayout, buffer: torch.Tensor) -> PendingRead:
        """Begin to read all tensors of a layer into a buffer; returns at once.

        Parameters
        ----------
        layout
            What goes where.
        buffer
            CPU, uint8 ``[at least layout.size_bytes]``, contiguous, pinned or not. It belongs to
            the reader until the read is done or cancelled.

        Raises
        ------
        ValueError
            When the buffer does not fit.
        RuntimeClosedError
            When the reader is closed.
        """
        require_buffer(buffer, layout.size_bytes)
        plan = self._plans.get(layout)
        if plan is None:
            plan = self._plans[layout] = plan_layout(layout)
        return self._begin(plan, buffer)

    def read_rows(
        self, recipe: TensorRecipe, rows: Sequence[int], out: torch.Tensor
    ) -> PendingRead:
        """Begin to read rows of dim 0 of one tensor: single experts of a stacked one.

        Parameters
        ----------
        recipe
            The tensor, of shape ``[n, ...]``.
        rows
            Which, in the order in which they are wanted.
        out
            CPU, the recipe's dtype, ``[len(rows), ...]``, contiguous.

        Raises
        ------
        IndexError
            When a row does not exist.
        ValueError
            When `out` does not fit.
        RuntimeClosedError
            When the reader is closed.
        """
        shape = (len(rows), *recipe.shape[1:])
        if out.dtype != recipe.dtype or tuple(out.shape) != shape or not out.is_contiguous():
            raise ValueError(
                f"Rows of {recipe.name} need contiguous {recipe.dtype} {list(shape)}, not "
                f"{out.dtype} {list(out.shape)}."
            )
        return self._begin(plan_rows(recipe, rows), out.detach().view(-1).view(torch.uint8))

    def close(self) -> None:
        """Cancel what is under way, join the threads, close the files; may be called again."""
        with self._lock:
            self._closed = True
            pending = tuple(self._pending)
        for read in pending:
            read.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._files.close()

    def __enter__(self) -> WeightReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, plan: ReadPlan, buffer: torch.Tensor) -> PendingRead:
        if buffer.device.type != "cpu":
            raise ValueError(f"The buffer must be on the CPU, not on {buffer.device}.")
        work = ReadWork(plan, self._files, self._scratch, buffer)
        with self._lock:
            if self._closed:
                raise RuntimeClosedError("The reader of the weights is closed.")
            read = PendingRead(len(plan.items), work.run, self._check(plan), self._forget)
            self._pending.add(read)
            read.begin(self._pool.submit, self._threads)
        return read

    def _check(self, plan: ReadPlan) -> Callable[[], OllmError | None]:
        def check() -> OllmError | None:
            try:
                for path in plan.paths:
                    self._index.require_unchanged(path)
            except OllmError as error:
                return error
            return None

        return check

    def _forget(self, read: PendingRead) -> None:
        self._pending.discard(read)
