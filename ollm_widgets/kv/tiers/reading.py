"""Fills keys and values with the tokens of cold pages."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from ollm_widgets.kv.codecs.page import PageCodec, PageShape
from ollm_widgets.kv.tiers.buffers import (
    as_pages,
    host_bytes_buffer,
    new_buffer,
    new_event,
    new_stream,
)
from ollm_widgets.kv.tiers.disk import DiskTier
from ollm_widgets.kv.tiers.pages import ColdPage, alike

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class PageReader:
    """Reads pages from memory and disk, decodes them and puts them where attention reads.

    For one thread. On CUDA all of it happens on a stream of its own, and bytes cross encoded.

    Parameters
    ----------
    codec
        Of the pages.
    disk
        Where pages are that are not in memory.
    device
        Where keys and values go.
    transfer_bytes
        Bytes read at a time, or one page if that is more.
    """

    def __init__(
        self, codec: PageCodec, disk: DiskTier, device: torch.device, transfer_bytes: int
    ) -> None:
        self._codec = codec
        self._disk = disk
        self._device = device
        self._transfer_bytes = transfer_bytes
        self._stream = new_stream(device) if device.type == "cuda" else None
        # Two on CUDA: one crosses while the other is read.
        self._staging: list[torch.Tensor | None] = [None, None]
        self._crossed: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0
        self._received: torch.Tensor | None = None

    @property
    def host_bytes(self) -> int:
        """Bytes of its buffers in host memory."""
        return sum(buffer.nbytes for buffer in self._staging if buffer is not None)

    @property
    def device_bytes(self) -> int:
        """Bytes of its buffer on a computing device that is not the host."""
        return 0 if self._received is None else self._received.nbytes

    def read(
        self,
        pages: Sequence[ColdPage],
        keys_out: torch.Tensor,
        values_out: torch.Tensor,
        after: torch.cuda.Event | None = None,
    ) -> torch.cuda.Event | None:
        """Fill ``[batch, heads, tokens, width]`` with the tokens of `pages`, one after another.

        Parameters
        ----------
        pages
            All of the same number of tokens.
        keys_out, values_out
            Any strides.
        after
            On CUDA, when they may be written.

        Returns
        -------
        torch.cuda.Event or None
            On CUDA, when they are filled.

        Raises
        ------
        KVPageError
            When a page cannot be read as it was written.
        """
        with self._on_stream(after):
            start = 0
            for run in alike(pages, self._transfer_bytes):
                stop = start + len(run) * run[0].shape.tokens
                encoded = self._gather(run)
                self._decode(
                    run[0], encoded, keys_out[:, :, start:stop], values_out[:, :, start:stop]
                )
                start = stop
            if self._stream is None:
                return None
            return new_event(self._stream)

    def _on_stream(self, after: torch.cuda.Event | None) -> AbstractContextManager[object]:
        if self._stream is None:
            return nullcontext()
        if after is not None:
            self._stream.wait_event(after)
        return torch.cuda.stream(self._stream)

    def _gather(self, run: Sequence[ColdPage]) -> torch.Tensor:
        """The pages' bytes ``uint8 [pages, size]`` on the computing device."""
        size = run[0].size_bytes
        staging = self._next_staging(len(run) * size).view(len(run), size)
        in_memory = [page.data for page in run]
        on_disk = [(page, staging[i]) for i, page in enumerate(run) if in_memory[i] is None]
        if on_disk:
            self._disk.read(on_disk)
        if self._stream is None:
            for row, data in zip(staging, in_memory, strict=True):
                if data is not None:
                    np.copyto(row.numpy(), data.numpy())
            return staging if self._device.type == "cpu" else staging.to(self._device)
        received = self._receiving(len(run) * size).view(len(run), size)
        if len(on_disk) == len(run):
            received.copy_(staging, non_blocking=True)
        else:
            for row, (page, data) in enumerate(zip(run, in_memory, strict=True)):
                if data is not None and page.arrived is not None:
                    self._stream.wait_event(page.arrived)
                received[row].copy_(staging[row] if data is None else data, non_blocking=True)
        self._crossed[self._turn] = new_event(self._stream)
        return received

    def _decode(
        self,
        page: ColdPage,
        encoded: torch.Tensor,
        keys_out: torch.Tensor,
        values_out: torch.Tensor,
    ) -> None:
        shape = page.shape
        outs = as_pages(keys_out, shape.tokens), as_pages(values_out, shape.tokens)
        if page.rows is None:
            self._decode_into(encoded, shape, *outs)
            return
        count = len(encoded)
        keys = torch.empty((count, *shape.keys), dtype=shape.dtype, device=keys_out.device)
        values = torch.empty((count, *shape.values), dtype=shape.dtype, device=keys_out.device)
        self._decode_into(encoded, shape, keys, values)
        rows = torch.tensor(page.rows, device=keys_out.device)
        outs[0].copy_(keys.index_select(1, rows))
        outs[1].copy_(values.index_select(1, rows))

    def _decode_into(
        self, encoded: torch.Tensor, shape: PageShape, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        if not self._codec.lossless or keys.device.type != "cpu":
            self._codec.decode(encoded, shape, keys, values)
            return
        # One thread's copy: torch would start a team of threads beside the one that computes.
        for target, source in zip((keys, values), shape.views(encoded), strict=True):
            integers = _INTEGERS[shape.dtype.itemsize]
            np.copyto(target.view(integers).numpy(), source.view(integers).numpy())

    def _next_staging(self, size: int) -> torch.Tensor:
        if self._stream is not None:
            self._turn = 1 - self._turn
            crossed = self._crossed[self._turn]
            if crossed is not None:
                crossed.synchronize()
        staging = self._staging[self._turn]
        if staging is None or len(staging) < size:
            # The smaller one goes first.
            self._staging[self._turn] = staging = None
            staging = host_bytes_buffer((size,), self._device)
            self._staging[self._turn] = staging
        return staging[:size]

    def _receiving(self, size: int) -> torch.Tensor:
        if self._received is None or len(self._received) < size:
            self._received = new_buffer((size,), torch.uint8, self._device)
        return self._received[:size]
