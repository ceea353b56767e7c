"""Layers on their way to accelerators: one stream of windows that does not end between layers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.checkpoint.windows import windows
from ollm_widgets.weights.cuda import has_happened, new_event
from ollm_widgets.weights.pinned import HostBuffer

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.layout import LayerLayout
    from ollm_widgets.weights.reading.reader import PendingRead, WeightReader

# Page-locked memory is slow to make, so a load passes through a few small buffers of it.
WINDOW_BYTES = 32 * 1024**2
WINDOWS = 8
# Called with each number of bytes that has come.
Count = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Passage:
    """A window on its way: `read` fills `host`, which is copied to `target` then.

    `place` is free again once that is over. `then` follows the copy on its stream.
    """

    target: torch.Tensor
    host: HostBuffer
    place: HostBuffer
    read: PendingRead
    count: Count
    then: Callable[[], None] | None


class WindowStream:
    """Brings layers from the checkpoint to accelerators through a few page-locked buffers.

    While the last bytes of a layer are read and cross, the first of the next are read already.

    Parameters
    ----------
    reader
        Reads the checkpoint.
    """

    def __init__(self, reader: WeightReader) -> None:
        self._reader = reader
        self._places: list[HostBuffer] = []
        self._free: list[HostBuffer] = []
        self._reading: deque[_Passage] = deque()
        self._crossing: deque[tuple[torch.cuda.Event, _Passage]] = deque()

    def send(
        self,
        layout: LayerLayout,
        target: torch.Tensor,
        cancel: threading.Event,
        count: Count,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Send a layer; its last windows, and those of others before it, may still be under way.

        Parameters
        ----------
        layout
            The layer.
        target
            uint8 ``[layout.size_bytes]``, on an accelerator as a rule.
        cancel
            Ends the wait for windows sent before, and all that is under way.
        count
            Called with the bytes of each window that has been read.
        then
            Called once all of the layer is in `target`, or is certain to be there for what is
            enqueued on the current stream from then on.

        Raises
        ------
        WeightReadError, CheckpointChangedError, Cancelled
            Of this layer or of one before it; nothing is under way then.
        """
        try:
            parts = list(windows(layout, WINDOW_BYTES))
            for window in parts:
                place = self._take_place(cancel)
                size = window.layout.size_bytes
                # A tensor that is converted stays whole, however large it is.
                host = place if size <= place.size_bytes else HostBuffer(size)
                part = target[window.start_bytes : window.start_bytes + size]
                read = self._reader.read(window.layout, host.tensor)
                last = then if window is parts[-1] else None
                self._reading.append(_Passage(part, host, place, read, count, last))
        except BaseException:
            self.stop()
            raise

    def settle(self, cancel: threading.Event) -> None:
        """Wait until all that was sent has come.

        Raises
        ------
        WeightReadError, CheckpointChangedError, Cancelled
            Nothing is under way then.
        """
        try:
            while self._reading:
                self._copy_next(cancel)
            while self._crossing:
                self._release_next()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End what is under way, and let the buffers go; the next layer makes them again."""
        for passage in self._reading:
            passage.read.cancel()
        self._reading.clear()
        while self._crossing:
            self._release_next()
        for place in self._places:
            place.close()
        self._places, self._free = [], []

    def _take_place(self, cancel: threading.Event) -> HostBuffer:
        while True:
            self._go_on(cancel)
            if self._free:
                return self._free.pop()
            if len(self._places) < WINDOWS:
                place = HostBuffer(WINDOW_BYTES)
                self._places.append(place)
                return place
            # One copy crosses while the next window is waited for.
            if len(self._crossing) < 2:
                self._copy_next(cancel)
            else:
                self._release_next()

    def _go_on(self, cancel: threading.Event) -> None:
        """Copy what has been read, so that the wire carries; take back what has crossed."""
        while self._reading and self._reading[0].read.done():
            self._copy_next(cancel)
        while self._crossing and has_happened(self._crossing[0][0]):
            self._release_next()

    def _copy_next(self, cancel: threading.Event) -> None:
        """Copy the window that is read first, once it is."""
        passage = self._reading[0]
        passage.read.wait(cancel)
        target = passage.target
        if target.is_cuda and passage.host is passage.place:
            # Not before the readers' threads have made the pages.
            passage.place.lock()
        target.copy_(passage.host.tensor[: target.numel()], non_blocking=True)
        if target.is_cuda:
            copied = new_event()
            copied.record(torch.cuda.current_stream(target.device))
            self._crossing.append((copied, passage))
        else:
            self._free.append(passage.place)
        self._reading.popleft()
        if passage.then is not None:
            passage.then()
        passage.count(target.numel())

    def _release_next(self) -> None:
        """Wait for the oldest copy."""
        copied, passage = self._crossing[0]
        copied.synchronize()
        self._crossing.popleft()
        self._free.append(passage.place)
