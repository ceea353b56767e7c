"""Bringing the bytes of a layer to where it will live."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.packing.format import PackedFormat
from ollm_widgets.weights.packing.packing import pack_layer
from ollm_widgets.weights.pinned import HostBuffer
from ollm_widgets.weights.window_stream import Count, WindowStream

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.layout import LayerLayout
    from ollm_widgets.weights.reading.reader import WeightReader


class Filler:
    """Fills buffers of any tier from the checkpoint.

    Parameters
    ----------
    reader
        Reads the checkpoint.
    """

    def __init__(self, reader: WeightReader) -> None:
        self._reader = reader
        self._stream = WindowStream(reader)
        self._locked: list[HostBuffer] = []

    def resident(
        self, layout: LayerLayout, device: torch.device, cancel: threading.Event, count: Count
    ) -> torch.Tensor:
        """Read a layer into the memory that computes; uint8 ``[layout.size_bytes]``.

        What goes to an accelerator may still be under way when this returns, so that the next
        layer follows at once; `settle` waits for it.

        Raises
        ------
        torch.OutOfMemoryError
            Before anything is read, if the accelerator is full.
        WeightReadError, CheckpointChangedError, Cancelled
            Of this layer, or of one before it that was still under way.
        """
        if device.type == "cpu":
            buffer = HostBuffer(layout.size_bytes).tensor
            self._reader.read(layout, buffer).wait(cancel)
            count(layout.size_bytes)
            return buffer
        target = torch.empty(layout.size_bytes, dtype=torch.uint8, device=device)
        self._stream.send(layout, target, cancel, count)
        return target

    def host(self, layout: LayerLayout, cancel: threading.Event, count: Count) -> HostBuffer:
        """Read a layer into page-locked host memory."""
        buffer = HostBuffer(layout.size_bytes)
        self._reader.read(layout, buffer.tensor).wait(cancel)
        count(layout.size_bytes)
        buffer.lock()
        return buffer

    def packed(
        self, layout: LayerLayout, device: torch.device, cancel: threading.Event, count: Count
    ) -> tuple[HostBuffer, PackedFormat | None]:
        """Read a layer into page-locked host memory, packed on the accelerator if that pays."""
        raw = self.resident(layout, device, cancel, count)
        self.settle(cancel)
        packed = pack_layer(raw, layout)
        if packed is None:
            return self.to_host(raw), None
        return self.to_host(packed.blob), packed.format

    def to_host(self, on_device: torch.Tensor) -> HostBuffer:
        """Bring bytes from the accelerator to page-locked host memory."""
        buffer = HostBuffer(on_device.numel())
        # Locked first: a copy into pageable memory runs at a tenth of the wire's speed.
        buffer.lock()
        buffer.tensor.copy_(on_device)
        return buffer

    def locked(self, size_bytes: int) -> torch.Tensor:
        """Make page-locked memory that lives until the filler is closed."""
        buffer = HostBuffer(size_bytes)
        buffer.lock()
        self._locked.append(buffer)
        return buffer.tensor

    def settle(self, cancel: threading.Event) -> None:
        """Wait until all layers on their way to accelerators have come.

        Raises
        ------
        WeightReadError, CheckpointChangedError, Cancelled
            Nothing is under way then.
        """
        self._stream.settle(cancel)

    def rest(self) -> None:
        """Let the buffers of loading go, and what is under way; the next load makes them again."""
        self._stream.stop()

    def close(self) -> None:
        """Unlock all page-locked memory."""
        self.rest()
        for buffer in self._locked:
            buffer.close()
        self._locked = []
