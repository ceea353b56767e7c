"""Page-locked copies of what accelerators hold: made once, kept for the next time.

Weights never change, so a copy that is kept makes the next demotion free, and a return is one
copy over the wire. Making page-locked memory takes several times as long as that copy, so some
threads make it, while what is made already is filled.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ollm_widgets.errors import Cancelled
from ollm_widgets.weights.copy_streams import CopyStreams
from ollm_widgets.weights.pinned import HostBuffer

# More gain little: the system makes pages of one process under one lock.
_MAKERS = 4
# Pieces of a block begin at multiples of this, as allocations of torch do.
_ALIGNMENT_BYTES = 512
_SMALLEST_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """Memory that is copied as a whole.

    Parameters
    ----------
    key
        What its copy is found by.
    pieces
        uint8 ``[bytes]`` each, where the weights compute.
    """

    key: Hashable
    pieces: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class _Copy:
    """A buffer, and the part of it that each piece of a block has."""

    buffer: HostBuffer
    parts: tuple[slice, ...]


class HostCopies:
    """Copies of blocks in host memory. One thread at a time may change it."""

    def __init__(self) -> None:
        self._copies: dict[Hashable, _Copy] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes of all copies; any thread may ask."""
        return sum(copy.buffer.size_bytes for copy in tuple(self._copies.values()))

    def __contains__(self, key: Hashable) -> bool:
        return key in self._copies

    def pieces(self, key: Hashable) -> list[torch.Tensor]:
        """The copies of a block's pieces, in their order; uint8."""
        copy = self._copies[key]
        return [copy.buffer.tensor[part] for part in copy.parts]

    def make(self, blocks: Iterable[Block], cancel: threading.Event) -> None:
        """Copy the blocks that have no copy yet.

        Raises
        ------
        Cancelled
            Between two blocks, soon after `cancel` is set; there are no more copies than before.
        OutOfMemory
            If the system refuses so much host memory; likewise.
        """
        missing = {block: _parts(block) for block in blocks if block.key not in self._copies}
        # Those that take longest begin first.
        order = sorted(missing, key=lambda block: -missing[block][-1].stop)
        streams = CopyStreams()
        made: dict[Hashable, _Copy] = {}
        with ThreadPoolExecutor(_MAKERS, thread_name_prefix="ollm-pages") as makers:
            futures = {
                block: makers.submit(_new_buffer, block, missing[block][-1].stop, cancel)
                for block in order
            }
            try:
                for block, future in futures.items():
                    copy = made[block.key] = _Copy(future.result(), missing[block])
                    for part, piece in zip(copy.parts, block.pieces, strict=True):
                        streams.copy(copy.buffer.tensor[part], piece)
                _stop_at(cancel)
                streams.wait()
            except BaseException:
                streams.wait()
                _close_all(futures.values())
                raise
        self._copies |= made

    def take(self, key: Hashable) -> HostBuffer:
        """Give the copy of a block of one piece away, to whoever closes it."""
        return self._copies.pop(key).buffer

    def put(self, key: Hashable, buffer: HostBuffer) -> None:
        """Take back what `take` gave."""
        self._copies[key] = _Copy(buffer, (slice(0, buffer.size_bytes),))

    def drop(self, key: Hashable) -> None:
        """Let a copy go, if there is one."""
        if key in self._copies:
            self._copies.pop(key).buffer.close()

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Let the other copies go."""
        for key in [key for key in self._copies if key not in keys]:
            self.drop(key)

    def release(self) -> None:
        """Let all copies go."""
        self.keep_only(())


def _parts(block: Block) -> tuple[slice, ...]:
    parts = []
    start = 0
    for piece in block.pieces:
        parts.append(slice(start, start + piece.numel()))
        start += -(-piece.numel() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return tuple(parts)


def locked_buffer(size_bytes: int, *, locked: bool) -> HostBuffer:
    """Make a buffer whose pages are there, and locked where accelerators copy from it.

    Raises
    ------
    OutOfMemory
        If the system refuses.
    """
    buffer = HostBuffer(size_bytes)
    if locked:
        # Locking is quick for pages that are there, and making them does not hold Python up.
        buffer.tensor[::_SMALLEST_PAGE_BYTES].fill_(0)
        buffer.lock()
    return buffer


def _new_buffer(block: Block, size_bytes: int, cancel: threading.Event) -> HostBuffer:
    _stop_at(cancel)
    return locked_buffer(size_bytes, locked=any(piece.is_cuda for piece in block.pieces))


def _stop_at(cancel: threading.Event) -> None:
    if cancel.is_set():
        raise Cancelled("Moving the model to host memory was cancelled.")


def _close_all(futures: Collection[Future[HostBuffer]]) -> None:
    for future in futures:
        future.cancel()
    for future in futures:
        if not future.cancelled() and future.exception() is None:
            future.result().close()
