"""Bringing the bytes of a layer to where it will live."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.packing.format import PackedFormat
from ollm_widgets.weights.packing.packing import pack_layer
from ollm_widgets.weights.pinned import HostBuffer
from ollm_widgets.weights.window_stream import Count, WindowStream

if TYPE_CHECKING:
    from ollm_widgets.weights.homes import Part
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
        self, part: Part, device: torch.device, cancel: threading.Event, count: Count
    ) -> torch.Tensor:
        """Read a layer into the memory that computes; uint8 ``[part.layout.size_bytes]``.

        What goes to an accelerator may still be under way when this returns, so that the next
        layer follows at once; `settle` waits for it. Quantized tensors are expanded there.

        Raises
        ------
        torch.OutOfMemoryError
            Before anything is read, if the accelerator is full.
        WeightReadError, CheckpointChangedError, Cancelled
            Of this layer, or of one before it that was still under way.
        """
        stored, read = part.stored, part.read_layout
        if device.type == "cpu":
            buffer = HostBuffer(part.layout.size_bytes).tensor
            came = buffer if stored is None else HostBuffer(read.size_bytes).tensor
            self._reader.read(read, came).wait(cancel)
            if stored is not None:
                stored.expand_into(came, buffer)
            count(read.size_bytes)
            return buffer
        target = torch.empty(part.layout.size_bytes, dtype=torch.uint8, device=device)
        if stored is None:
            self._stream.send(read, target, cancel, count)
            return target
        came = torch.empty(read.size_bytes, dtype=torch.uint8, device=device)
        self._stream.send(read, came, cancel, count, partial(stored.expand_into, came, target))
        return target

    def host(self, part: Part, cancel: threading.Event, count: Count) -> HostBuffer:
        """Read a layer into page-locked host memory, as it is stored."""
        layout = part.read_layout
        buffer = HostBuffer(layout.size_bytes)
        self._reader.read(layout, buffer.tensor).wait(cancel)
        count(layout.size_bytes)
        buffer.lock()
        return buffer

    def packed(
        self, part: Part, device: torch.device, cancel: threading.Event, count: Count
    ) -> tuple[HostBuffer, PackedFormat | None]:
        """Read a layer into page-locked host memory, packed on the accelerator if that pays."""
        raw = self.resident(part, device, cancel, count)
        self.settle(cancel)
        packed = pack_layer(raw, part.layout)
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
        """Make page-locked memory that lives until `unlock`."""
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

    def unlock(self) -> None:
        """Let go of all memory that `locked` has made; nothing may use it any more."""
        for buffer in self._locked:
            buffer.close()
        self._locked = []

    def close(self) -> None:
        """Let go of all page-locked memory."""
        self.rest()
        self.unlock()
