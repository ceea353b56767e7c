"""Copies between accelerators and host memory, beside what computes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import torch

from ollm_widgets.errors import Cancelled
from ollm_widgets.weights.cuda import new_event, new_stream

# A third of a second on a fast wire.
_AT_ONCE_BYTES = 16 * 2**30


class CopyStreams:
    """A stream for copies on each device that takes part; a CPU copies at once.

    A copy follows what the current stream of its device has been given so far. Nothing follows a
    copy before `join` or `wait`.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> torch.cuda.Event | None:
        """Enqueue a copy; both tensors have to stay until it is over.

        Returns
        -------
        torch.cuda.Event or None
            When it is over; None if it is already.
        """
        device = target.device if target.is_cuda else source.device
        if device.type != "cuda":
            target.copy_(source)
            return None
        stream = self._stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        over = new_event()
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
            over.record(stream)
        return over

    def join(self) -> None:
        """Have what is enqueued from now on, on the current streams, find all that was copied."""
        for device, stream in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(stream)

    def wait(self) -> None:
        """Return when all copies are over."""
        for stream in self._streams.values():
            stream.synchronize()

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = new_stream(device)
        return self._streams[device]


class Sending:
    """Copies to where a model computes, in the order in which they are added.

    Only so much is under way that a cancel is seen soon.

    Parameters
    ----------
    progress
        Called with the bytes that have come, and those of all copies; first by `finish`.
    at_once_bytes
        At most so much is enqueued, or one copy.
    """

    def __init__(
        self,
        progress: Callable[[int, int], None],
        *,
        at_once_bytes: int = _AT_ONCE_BYTES,
    ) -> None:
        self.streams = CopyStreams()
        self._progress = progress
        self._at_once_bytes = at_once_bytes
        self._total_bytes = self._done_bytes = 0
        self._waiting: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self._crossing: deque[tuple[torch.cuda.Event | None, int]] = deque()
        self._crossing_bytes = 0

    def add(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy `source`, which is page-locked where `target` is on an accelerator."""
        self._waiting.append((target, source))
        self._total_bytes += target.numel()
        self._fill()

    def finish(self, cancel: threading.Event) -> None:
        """Return when everything has come.

        Raises
        ------
        Cancelled
            Between two copies, soon after `cancel` is set; call `stop` then.
        """
        while self._crossing:
            if cancel.is_set():
                raise Cancelled("The return to the accelerator was cancelled.")
            over, size_bytes = self._crossing[0]
            if over is not None:
                over.synchronize()
            self._crossing.popleft()
            self._crossing_bytes -= size_bytes
            self._done_bytes += size_bytes
            self._progress(self._done_bytes, self._total_bytes)
            self._fill()
        self.streams.wait()

    def drain(self) -> None:
        """Begin all copies, and wait for them."""
        while self._waiting:
            self._begin_next()
        self.streams.wait()

    def stop(self) -> None:
        """Begin no more copies, and wait for those that have begun."""
        self._waiting.clear()
        self._crossing.clear()
        self.streams.wait()

    def _fill(self) -> None:
        while self._waiting:
            size_bytes = self._waiting[0][0].numel()
            if self._crossing and self._crossing_bytes + size_bytes > self._at_once_bytes:
                return
            self._begin_next()

    def _begin_next(self) -> None:
        target, source = self._waiting.popleft()
        self._crossing.append((self.streams.copy(target, source), target.numel()))
        self._crossing_bytes += target.numel()
