"""Pages on their way from the device to host memory, behind the computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ollm_widgets.kv.attention.host_pages import HostPages
from ollm_widgets.weights.cuda import has_happened, new_event, new_stream

if TYPE_CHECKING:
    from ollm_widgets.kv.codecs.page import PageCodec

# Quantizing takes a few times the bytes of what is quantized.
_PAGES_AT_ONCE = 64


class PageMover:
    """Encodes pages on the device and copies them out, on a stream of its own.

    Parameters
    ----------
    codec
        How pages are encoded.
    device
        Where keys and values are; on the CPU everything happens at once.
    """

    def __init__(self, codec: PageCodec, device: torch.device) -> None:
        self.codec = codec
        self._device = device
        self._stream: Any = new_stream(device) if device.type == "cuda" else None
        self._last: torch.cuda.Event | None = None

    def send(
        self, keys: torch.Tensor, values: torch.Tensor, pages: HostPages, first_page: int
    ) -> None:
        """Move consecutive whole pages of one layer.

        Parameters
        ----------
        keys, values
            ``[pages, batch, heads, page tokens, width]``, of any strides; they must stay as they
            are until `settle` has been waited for.
        pages
            Where to.
        first_page
            Number of the first of them.
        """
        pages.make_room(first_page + keys.shape[0])
        self._fork(keys, values)
        with self._aside():
            for part in range(0, keys.shape[0], _PAGES_AT_ONCE):
                whole = slice(part, part + _PAGES_AT_ONCE)
                encoded = self._encoded(keys[whole], values[whole], pages.page_bytes)
                for page, stretch in pages.pieces(
                    first_page + part, first_page + part + encoded.shape[0]
                ):
                    offset = page - first_page - part
                    source = encoded[offset : offset + stretch.shape[0]]
                    stretch.copy_(source, non_blocking=True)
        self._note()

    def send_each(
        self, keys: torch.Tensor, values: torch.Tensor, layers: list[HostPages], page: int
    ) -> None:
        """Move the same page of several layers, ``[layers, batch, heads, page tokens, width]``."""
        for pages in layers:
            pages.make_room(page + 1)
        self._fork(keys, values)
        with self._aside():
            encoded = self._encoded(keys, values, layers[0].page_bytes)
            for source, pages in zip(encoded, layers, strict=True):
                for _, stretch in pages.pieces(page, page + 1):
                    stretch[0].copy_(source, non_blocking=True)
        self._note()

    @property
    def arrived(self) -> bool:
        """Whether everything that was sent is there."""
        return self._last is None or has_happened(self._last)

    def settle(self) -> None:
        """Have the current stream wait until everything that was sent is there."""
        if self._last is not None:
            torch.cuda.current_stream(self._device).wait_event(self._last)

    def _encoded(self, keys: torch.Tensor, values: torch.Tensor, page_bytes: int) -> torch.Tensor:
        encoded = torch.empty(keys.shape[0], page_bytes, dtype=torch.uint8, device=keys.device)
        self.codec.encode(keys, values, encoded)
        return encoded

    def _fork(self, *tensors: torch.Tensor) -> None:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            for tensor in tensors:
                tensor.record_stream(self._stream)

    def _aside(self) -> Any:
        return torch.cuda.stream(self._stream)

    def _note(self) -> None:
        if self._stream is not None:
            self._last = new_event()
            self._last.record(self._stream)
