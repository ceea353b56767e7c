"""Cold pages of one layer, encoded, in host memory that the device reads in place."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator

import torch

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.weights.experts.slots import device_address
from ollm_widgets.weights.pinned import HostBuffer

# Large enough for a copy to run at the wire's speed, small enough not to waste much of a layer's.
_CHUNK_BYTES = 16 * 2**20
_CHUNKS = 4


class HostPages:
    """Room for pages that grows by chunks; what it has once taken it keeps.

    Parameters
    ----------
    page_bytes
        Of an encoded page.
    pages
        The most that it will hold.
    device
        That reads them; on the CPU plain memory does.

    Attributes
    ----------
    table
        int64 ``[pages]`` on the device: the address of each page that there is room for.
    """

    def __init__(self, page_bytes: int, pages: int, device: torch.device) -> None:
        self.page_bytes = page_bytes
        self.chunk_pages = chunk_pages(page_bytes, pages)
        self.table = torch.zeros(max(pages, 1), dtype=torch.int64, device=device)
        self._pages = pages
        self._device = device
        self._chunks: list[torch.Tensor] = []
        self._buffers: list[HostBuffer] = []
        # Memory that goes while it is page-locked cannot be locked again at its address.
        weakref.finalize(self, _close, self._buffers).atexit = False

    @property
    def size_bytes(self) -> int:
        """Bytes that it has taken."""
        return sum(chunk.numel() for chunk in self._chunks)

    def make_room(self, pages: int) -> None:
        """Have room for the first `pages`.

        Raises
        ------
        OutOfMemory
            If the system refuses the memory.
        KVStrategyError
            If the device cannot read it.
        """
        while len(self._chunks) * self.chunk_pages < pages:
            first = len(self._chunks) * self.chunk_pages
            last = min(first + self.chunk_pages, self._pages)
            chunk = self._new_chunk(last - first)
            address = device_address(chunk, self._device)
            if address is None:
                raise KVStrategyError("The device does not read host memory in place.")
            steps = torch.arange(last - first, device=self._device) * self.page_bytes
            torch.add(steps, address, out=self.table[first:last])
            self._chunks.append(chunk)

    def _new_chunk(self, pages: int) -> torch.Tensor:
        size = pages * self.page_bytes
        if self._device.type != "cuda":
            return torch.empty(pages, self.page_bytes, dtype=torch.uint8)
        buffer = HostBuffer(size)
        buffer.lock()
        self._buffers.append(buffer)
        return buffer.tensor[:size].view(pages, self.page_bytes)

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Stretches that lie together, of the pages `first` to `last`.

        Yields
        ------
        page, stretch
            The number of its first page, and ``uint8 [pages, page_bytes]``.
        """
        while first < last:
            number, offset = divmod(first, self.chunk_pages)
            stretch = self._chunks[number][offset : offset + last - first]
            yield first, stretch
            first += stretch.shape[0]

    def close(self) -> None:
        """Give the memory back, once nothing reads it."""
        self._chunks.clear()
        _close(self._buffers)


def _close(buffers: list[HostBuffer]) -> None:
    if buffers:
        torch.cuda.synchronize()
    while buffers:
        buffers.pop().close()


def chunk_pages(page_bytes: int, pages: int) -> int:
    """How many of a layer's `pages` lie together, and are copied at once at most."""
    return max(1, min(_CHUNK_BYTES // page_bytes, -(-pages // _CHUNKS)))


def host_bytes(page_bytes: int, pages: int, filled: int) -> int:
    """Bytes that the first `filled` of `pages` take."""
    each = chunk_pages(page_bytes, pages)
    return min(math.ceil(filled / each) * each, pages) * page_bytes
