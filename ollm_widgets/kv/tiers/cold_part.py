"""The tokens of a layer that have left the computing device: pages in host memory and on disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from ollm_widgets.kv.codecs.page import PageShape
from ollm_widgets.kv.tiers.buffers import (
    as_pages,
    copy_bytes,
    host_bytes_buffer,
    new_buffer,
    new_event,
)
from ollm_widgets.kv.tiers.pages import ColdPage, select_rows
from ollm_widgets.kv.tiers.store import OpenTiers

# Page-locked memory comes in powers of two, which a few large pages would fill badly.
_LARGEST_SLAB_BYTES = {"cuda": 1 << 22}
_LARGEST_SLAB_BYTES_ELSE = 1 << 18


class ColdPart:
    """Pages of one layer, the oldest first; what has to leave host memory goes to disk.

    Parameters
    ----------
    tiers
        Of the cache.

    Attributes
    ----------
    pages
        The pages.
    host_bytes
        Bytes of those in host memory.
    """

    def __init__(self, tiers: OpenTiers) -> None:
        self._tiers = tiers
        self.pages: list[ColdPage] = []
        # Those of `pages` that take host memory, the oldest first.
        self._in_host: deque[ColdPage] = deque()
        # Pages whose tokens are hot still, and on disk already: those that will leave next.
        self._ahead: deque[ColdPage] = deque()
        # Memory for the next pages, which goes when the last page in it does.
        self._slab: deque[torch.Tensor] = deque()
        self._slab_bytes = min(
            tiers.host_bytes_a_layer // 8,
            _LARGEST_SLAB_BYTES.get(tiers.device.type, _LARGEST_SLAB_BYTES_ELSE),
        )
        self.host_bytes = 0

    def __len__(self) -> int:
        return len(self.pages)

    @property
    def pages_ahead(self) -> int:
        """Pages of hot tokens, from the oldest on, that are written already."""
        return len(self._ahead)

    def take_in(self, shape: PageShape, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Add whole pages ``[batch, heads, pages * tokens, width]`` that leave the hot tail."""
        self._keep(self._encode(shape, keys, values))

    def take_ahead(self, most: int) -> int:
        """Add up to `most` pages that were written ahead; returns how many."""
        count = min(most, len(self._ahead))
        self.pages.extend(self._ahead.popleft() for _ in range(count))
        self._tiers.evicted_pages += count
        return count

    def write_ahead(self, shape: PageShape, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write whole pages of hot tokens, those after the ones that are written already."""
        pages = self._encode(shape, keys, values)
        self._ahead.extend(pages)
        self._tiers.disk.write(pages)

    def forget(self, first: int) -> None:
        """Free the pages from number `first` on; nobody may be reading them."""
        gone = self.pages[first:]
        del self.pages[first:]
        kept = set(map(id, self.pages))
        self._in_host = deque(page for page in self._in_host if id(page) in kept)
        self.host_bytes = sum(page.size_bytes for page in self._in_host)
        self._tiers.disk.free(gone)

    def forget_ahead(self, kept: int) -> None:
        """Free all but the first `kept` pages that were written ahead."""
        gone = [self._ahead.pop() for _ in range(max(len(self._ahead) - kept, 0))]
        if gone:
            self._tiers.disk.free(gone)

    def select(self, rows: Sequence[int]) -> None:
        """Let sequence i of the batch be what sequence ``rows[i]`` was; no byte moves."""
        select_rows([*self.pages, *self._ahead], rows)

    def copy_from(self, other: ColdPart) -> None:
        """Take in copies of the pages of another cache's layer."""
        for page in other.pages:
            data = self._frame(page.size_bytes)
            bytes_there = page.bytes_in_memory()
            if bytes_there is None:
                other._tiers.disk.read([(page, data)])
            else:
                data.copy_(bytes_there)
            own = ColdPage(page.shape, page.size_bytes, data, self._tiers.keeps_in_host)
            self._keep([replace(own, rows=page.rows)])

    def _keep(self, pages: Sequence[ColdPage]) -> None:
        tiers = self._tiers
        self.pages.extend(pages)
        tiers.evicted_pages += len(pages)
        if tiers.keeps_in_host:
            self._in_host.extend(pages)
            self.host_bytes += sum(page.size_bytes for page in pages)
        if tiers.writes_behind or not tiers.keeps_in_host:
            tiers.disk.write(pages)
        # Short of a slab: of the oldest one, pages may be left whose neighbours are gone.
        most = tiers.host_bytes_a_layer - self._slab_bytes
        while self._in_host and self.host_bytes > most:
            oldest = self._in_host.popleft()
            self.host_bytes -= oldest.size_bytes
            tiers.disk.demote(oldest)

    def _encode(self, shape: PageShape, keys: torch.Tensor, values: torch.Tensor) -> list[ColdPage]:
        """Turn whole pages into bytes in host memory."""
        codec, device = self._tiers.codec, self._tiers.device
        page_keys, page_values = (as_pages(states, shape.tokens) for states in (keys, values))
        count, page_bytes = len(page_keys), codec.encoded_bytes(shape)
        encoded = new_buffer((count, page_bytes), torch.uint8, device)
        codec.encode(page_keys, page_values, encoded)
        arrived = None
        if device.type == "cpu" and not self._tiers.keeps_in_host:
            datas = list(encoded)
        else:
            datas = [self._frame(page_bytes) for _ in range(count)]
            for data, row in zip(datas, encoded, strict=True):
                copy_bytes(data, row)
            if device.type == "cuda":
                arrived = new_event(torch.cuda.current_stream(device))
        in_host = self._tiers.keeps_in_host
        return [ColdPage(shape, page_bytes, data, in_host, arrived) for data in datas]

    def _frame(self, size: int) -> torch.Tensor:
        """Host memory ``uint8 [size]`` for a page: from a slab, as single ones leave holes."""
        if not self._slab or len(self._slab[0]) != size:
            count = max(self._slab_bytes // size, 1)
            slab = host_bytes_buffer((count, size), self._tiers.device)
            self._slab = deque(slab)
        return self._slab.popleft()
