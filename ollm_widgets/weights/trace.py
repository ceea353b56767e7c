"""Where the time of a pass goes, layer by layer."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.weights.steps.moments import Moment, Moments

if TYPE_CHECKING:
    import torch

    from ollm_widgets.planning.ids import LayerTier

# What a moment inside a captured step may cost, rather too much than too little: its node on the
# device, and its reading by the host.
_MOMENT_S = 5e-6
# The share of a step's time that recording may take: half of what is promised.
_SHARE = 0.01


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
    """One pass through the model: a prompt, or one token. All times are in seconds.

    Parameters
    ----------
    tokens
        Tokens of the pass, in each sequence.
    layers
        In the order in which they ran.
    total_s
        From the first layer's start to the last one's end; to the end of a captured step.
    head_s
        In a captured step, from the last layer's end to the choice of the next token.
    ahead_wait_s
        In a captured step, waiting after that for copies with which the next step begins.
    position
        Which token of the sequence a captured step ran, from 0; None of other passes.
    unrecorded
        How many captured steps ran between this pass and the next one without being recorded.
    note
        Why a step was not captured while it was recorded, though others are; else empty.
    """

    tokens: int
    layers: tuple[LayerTrace, ...]
    total_s: float
    head_s: float = 0.0
    ahead_wait_s: float = 0.0
    position: int | None = None
    unrecorded: int = 0
    note: str = ""

    @property
    def captured(self) -> bool:
        """Whether it ran as a captured step."""
        return self.position is not None

    @property
    def waiting_s(self) -> float:
        """Seconds in which nothing was computed."""
        layers = sum(layer.disk_wait_s + layer.device_copy_s for layer in self.layers)
        return layers + self.ahead_wait_s


def steps_between(moments: int, step_s: float) -> int:
    """Of how many captured steps one is recorded, so that recording stays within its share.

    Parameters
    ----------
    moments
        Moments inside a step.
    step_s
        Seconds that a step takes.
    """
    return max(1, math.ceil(moments * _MOMENT_S / (_SHARE * max(step_s, _MOMENT_S))))


@dataclass(slots=True)
class _Pass:
    """One pass; what is the next one's to know is added to it later."""

    moments: Moments
    position: int | None = None
    unrecorded: int = 0
    note: str = ""
    # Of a captured step, whose moments the next one takes for its own.
    seconds: tuple[float, ...] = ()

    def read(self) -> float:
        """Read the moments, before they pass again; the seconds from first to last."""
        self.seconds = self.moments.seconds()
        return self.seconds[-1]

    def trace(self) -> PassTrace:
        times = self.moments.times(self.seconds or self.moments.seconds())
        layers = tuple(
            LayerTrace(
                each.layer,
                each.tier,
                disk_wait_s=each.read - each.start,
                device_copy_s=each.copied - each.read,
                unpack_s=each.ready - each.copied,
                compute_s=each.end - each.ready,
            )
            for each in times.layers
        )
        return PassTrace(
            self.moments.tokens,
            layers,
            times.over,
            times.chosen - times.layers[-1].end,
            times.over - times.chosen,
            self.position,
            self.unrecorded,
            self.note,
        )


class Recorder:
    """Collects the traces of the last passes; nothing of it runs unless it is installed.

    Passes that run layer by layer are all recorded. Moments inside a captured step are the same
    ones in each replay, so a step is recorded only once the one before it has been read, which
    never waits for the device; and no more often than its share of the time allows.

    Parameters
    ----------
    device
        On CUDA moments are events on the current stream, so that recording waits for nothing.
    passes
        How many passes are kept.
    """

    def __init__(self, device: torch.device, passes: int = 256) -> None:
        self._device = device
        self._now: Callable[[], Moment] = _event if device.type == "cuda" else time.perf_counter
        self._passes: deque[_Pass] = deque(maxlen=passes)
        # Where layers are noted now.
        self._open: Moments | None = None
        self._aside = False
        self._replayed: _Pass | None = None
        self._reached: Callable[[], bool] | None = None
        self._every = 1
        self._since = 0

    # ------------------------------------------------------------------ noting layers

    def begin(self, layer: int, tier: LayerTier, tokens: int, *, first: bool) -> None:
        """Note that a layer is about to be waited for; `first` starts a new pass."""
        if not self._aside and (first or self._open is None):
            self._open = Moments(tokens, self._now)
            self._passes.append(_Pass(self._open))
        if self._open is not None:
            self._open.begin(layer, tier)

    def read(self) -> None:
        """Note that the layer's bytes have come from disk."""
        if self._open is not None:
            self._open.read()

    def copied(self) -> None:
        """Note that they have come to the accelerator, maybe packed."""
        if self._open is not None:
            self._open.copied()

    def ready(self) -> None:
        """Note that the layer's weights are where it computes."""
        if self._open is not None:
            self._open.ready()

    def end(self) -> None:
        """Note that the layer has computed."""
        if self._open is not None:
            self._open.end()

    @contextmanager
    def aside(self, moments: Moments | None = None) -> Iterator[None]:
        """Note layers in `moments`, or nowhere, while the context is open: they are no pass."""
        kept = self._open, self._aside
        self._open, self._aside = moments, True
        try:
            yield
        finally:
            self._open, self._aside = kept

    def explain(self, note: str) -> None:
        """Say why the last pass was not captured."""
        if self._passes:
            self._passes[-1].note = note

    # ------------------------------------------------------------------ captured steps

    def takes_step(self) -> bool:
        """Whether to record the captured step that comes next; one that is not is counted."""
        if self._reached is not None and self._reached():
            self._read_replayed()
        self._since += 1
        if self._replayed is None and self._since >= self._every:
            return True
        if self._passes:
            self._passes[-1].unrecorded += 1
        return False

    def replayed(self, moments: Moments, position: int, reached: Callable[[], bool]) -> None:
        """Note that a captured step was launched, to be recorded.

        Parameters
        ----------
        moments
            Those inside it.
        position
            Which token of the sequence it runs.
        reached
            Tells whether the device is through with it.
        """
        self._since = 0
        self._replayed, self._reached = _Pass(moments, position), reached
        self._passes.append(self._replayed)

    def _read_replayed(self) -> None:
        replayed, self._replayed, self._reached = self._replayed, None, None
        if replayed is not None:
            self._every = steps_between(replayed.moments.count, replayed.read())

    # ------------------------------------------------------------------ what came of it

    def traces(self) -> tuple[PassTrace, ...]:
        """The finished passes, the oldest first; on CUDA waits for the last one."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        self._read_replayed()
        return tuple(each.trace() for each in tuple(self._passes) if each.moments.finished)


def _event() -> Moment:
    from ollm_widgets.weights.cuda import new_event

    event = new_event(timing=True)
    event.record()
    return event
