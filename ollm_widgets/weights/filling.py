"""Bringing the bytes of a layer to where it will live."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.checkpoint.windows import Window, windows
from ollm_widgets.weights.cuda import new_event
from ollm_widgets.weights.packing.format import PackedFormat
from ollm_widgets.weights.packing.packing import pack_layer
from ollm_widgets.weights.pinned import HostBuffer

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.layout import LayerLayout
    from ollm_widgets.weights.reading.reader import PendingRead, WeightReader

# Page-locked memory is slow to make, so a load passes through a few small buffers of it.
WINDOW_BYTES = 32 * 1024**2
_WINDOWS = 8
Count = Callable[[int], None]


class Filler:
    """Fills buffers of any tier from the checkpoint.

    Parameters
    ----------
    reader
        Reads the checkpoint.
    """

    def __init__(self, reader: WeightReader) -> None:
        self._reader = reader
        self._locked: list[HostBuffer] = []
        self._windows: list[HostBuffer] = []

    def resident(
        self, layout: LayerLayout, device: torch.device, cancel: threading.Event, count: Count
    ) -> torch.Tensor:
        """Read a layer into the memory that computes; uint8 ``[layout.size_bytes]``.

        Raises
        ------
        torch.OutOfMemoryError
            Before anything is read, if the accelerator is full.
        """
        if device.type == "cpu":
            buffer = HostBuffer(layout.size_bytes).tensor
            self._reader.read(layout, buffer).wait(cancel)
            count(layout.size_bytes)
            return buffer
        target = torch.empty(layout.size_bytes, dtype=torch.uint8, device=device)
        self._through_windows(layout, target, cancel, count)
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

    def rest(self) -> None:
        """Let the buffers of loading go; the next load makes them again."""
        for buffer in self._windows:
            buffer.close()
        self._windows = []

    def close(self) -> None:
        """Unlock all page-locked memory."""
        self.rest()
        for buffer in self._locked:
            buffer.close()
        self._locked = []

    def _through_windows(
        self, layout: LayerLayout, target: torch.Tensor, cancel: threading.Event, count: Count
    ) -> None:
        """Read, and copy what has been read while the next windows are read."""
        free = deque(self._staging())
        under_way: deque[tuple[Window, torch.Tensor, PendingRead]] = deque()
        leaving: deque[tuple[torch.cuda.Event, torch.Tensor]] = deque()
        coming = windows(layout, WINDOW_BYTES)
        try:
            while True:
                while free and (window := next(coming, None)) is not None:
                    buffer = free.popleft()
                    if window.layout.size_bytes > buffer.numel():
                        buffer = HostBuffer(window.layout.size_bytes).tensor
                    under_way.append((window, buffer, self._reader.read(window.layout, buffer)))
                if not under_way:
                    break
                window, buffer, read = under_way[0]
                read.wait(cancel)
                under_way.popleft()
                size = window.layout.size_bytes
                target[window.start_bytes : window.start_bytes + size].copy_(
                    buffer[:size], non_blocking=True
                )
                copied = new_event()
                copied.record(torch.cuda.current_stream(target.device))
                leaving.append((copied, buffer))
                count(size)
                if not free:
                    done, buffer = leaving.popleft()
                    done.synchronize()
                    free.append(buffer)
        finally:
            for _, _, read in under_way:
                read.cancel()
            torch.cuda.synchronize(target.device)

    def _staging(self) -> list[torch.Tensor]:
        """The page-locked buffers of windows, made once."""
        while len(self._windows) < _WINDOWS:
            buffer = HostBuffer(WINDOW_BYTES)
            buffer.lock()
            self._windows.append(buffer)
        return [buffer.tensor for buffer in self._windows]
