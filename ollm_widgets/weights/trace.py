"""Where the time of a pass goes, layer by layer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ollm_widgets.planning.ids import LayerTier


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """What one layer of one pass waited for and took. All times are in seconds.

    Parameters
    ----------
    layer, tier
        Index of the layer, and where its weights live.
    disk_wait_s
        Waiting for a read to end: from disk or page cache into host memory, casts included.
    device_copy_s
        Waiting for a copy to the accelerator to end; what overlaps with computing costs nothing.
    unpack_s
        Decoding packed weights on the accelerator.
    compute_s
        From the weights being there to the end of the layer, its KV cache included.
    """

    layer: int
    tier: LayerTier
    disk_wait_s: float
    device_copy_s: float
    unpack_s: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class PassTrace:
    """One pass through the model: a prompt, or one token.

    Parameters
    ----------
    tokens
        Tokens of the pass, in each sequence.
    layers
        In the order in which they ran.
    total_s
        From the first layer's start to the last one's end.
    """

    tokens: int
    layers: tuple[LayerTrace, ...]
    total_s: float

    @property
    def waiting_s(self) -> float:
        """Seconds in which nothing was computed."""
        return sum(layer.disk_wait_s + layer.device_copy_s for layer in self.layers)


@dataclass(slots=True)
class _Marks:
    """Moments of one layer: host clock readings, or events on the accelerator's stream."""

    layer: int
    tier: LayerTier
    start: object
    read: object = None
    copied: object = None
    ready: object = None
    end: object = None


@dataclass(slots=True)
class _Pass:
    tokens: int
    marks: list[_Marks] = field(default_factory=list)


class Recorder:
    """Collects the traces of the last passes; nothing of it runs unless it is installed.

    Parameters
    ----------
    device
        On CUDA moments are events on the current stream, so that recording waits for nothing.
    passes
        How many passes are kept.
    """

    def __init__(self, device: torch.device, passes: int = 256) -> None:
        self._on_cuda = device.type == "cuda"
        self._passes: deque[_Pass] = deque(maxlen=passes)

    def begin(self, layer: int, tier: LayerTier, tokens: int, *, first: bool) -> None:
        """Note that a layer is about to be waited for; `first` starts a new pass."""
        if first or not self._passes:
            self._passes.append(_Pass(tokens))
        self._passes[-1].marks.append(_Marks(layer, tier, self._now()))

    def read(self) -> None:
        """Note that the layer's bytes have come from disk."""
        self._passes[-1].marks[-1].read = self._now()

    def copied(self) -> None:
        """Note that they have come to the accelerator, maybe packed."""
        self._passes[-1].marks[-1].copied = self._now()

    def ready(self) -> None:
        """Note that the layer's weights are where it computes."""
        self._passes[-1].marks[-1].ready = self._now()

    def end(self) -> None:
        """Note that the layer has computed."""
        self._passes[-1].marks[-1].end = self._now()

    def traces(self) -> tuple[PassTrace, ...]:
        """The finished passes, the oldest first; on CUDA waits for the last one."""
        return tuple(
            self._trace(each)
            for each in tuple(self._passes)
            if each.marks and each.marks[-1].end is not None
        )

    def _trace(self, each: _Pass) -> PassTrace:
        seconds = self._seconds()
        layers = []
        for mark in each.marks:
            read = mark.read if mark.read is not None else mark.start
            copied = mark.copied if mark.copied is not None else read
            ready = mark.ready if mark.ready is not None else copied
            end = mark.end if mark.end is not None else ready
            layers.append(
                LayerTrace(
                    mark.layer,
                    mark.tier,
                    disk_wait_s=seconds(mark.start, read),
                    device_copy_s=seconds(read, copied),
                    unpack_s=seconds(copied, ready),
                    compute_s=seconds(ready, end),
                )
            )
        last = each.marks[-1]
        return PassTrace(each.tokens, tuple(layers), seconds(each.marks[0].start, last.end))

    def _now(self) -> object:
        if not self._on_cuda:
            return time.perf_counter()
        from ollm_widgets.weights.cuda import new_event

        event = new_event(timing=True)
        event.record()
        return event

    def _seconds(self) -> Callable[[object, object], float]:
        if not self._on_cuda:
            return lambda start, end: end - start  # type: ignore[operator]  # host clock floats
        import torch

        torch.cuda.synchronize()
        return lambda start, end: start.elapsed_time(end) / 1000  # type: ignore[attr-defined]
