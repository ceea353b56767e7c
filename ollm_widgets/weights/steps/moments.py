"""Moments of one pass as they are noted, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ollm_widgets.planning.ids import LayerTier


class Event(Protocol):
    """A moment on an accelerator's stream, as `torch.cuda.Event` keeps it."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds until a later event."""
        ...


# Seconds on the host's clock, or an event.
Moment = float | Event


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """When a layer came to each stage, in seconds from the start of the first layer."""

    layer: int
    tier: LayerTier
    start: float
    read: float
    copied: float
    ready: float
    end: float


@dataclass(frozen=True, slots=True)
class PassTimes:
    """When a pass came to each stage, in seconds from the start of the first layer.

    Parameters
    ----------
    layers
        In the order in which they ran.
    chosen, over
        When the next token was chosen, and when all else was done; where that is not noted, the
        end of the last layer.
    """

    layers: tuple[LayerTimes, ...]
    chosen: float
    over: float


@dataclass(slots=True)
class _Marks:
    """Stages of a layer, each the number of a moment of the pass."""

    layer: int
    tier: LayerTier
    start: int
    read: int | None = None
    copied: int | None = None
    ready: int | None = None
    end: int | None = None


class Moments:
    """Notes the moments of one pass.

    Parameters
    ----------
    tokens
        Tokens of the pass, in each sequence.
    now
        Gives the present moment.
    sparing
        Take one moment for two that nothing lies between: inside a captured step, where each of
        them costs some microseconds in every replay.
    """

    def __init__(self, tokens: int, now: Callable[[], Moment], *, sparing: bool = False) -> None:
        self.tokens = tokens
        self._take = now
        self._sparing = sparing
        self._taken: list[Moment] = []
        self._marks: list[_Marks] = []
        self._chosen: int | None = None
        self._over: int | None = None

    @property
    def count(self) -> int:
        """Moments so far."""
        return len(self._taken)

    @property
    def finished(self) -> bool:
        """Whether the layer that was begun last has computed."""
        return bool(self._marks) and self._marks[-1].end is not None

    # ------------------------------------------------------------------ noting them

    def begin(self, layer: int, tier: LayerTier) -> None:
        """A layer is about to be waited for."""
        last = self._marks[-1].end if self._sparing and self._marks else None
        self._marks.append(_Marks(layer, tier, self._now() if last is None else last))

    def read(self) -> None:
        """Its bytes have come from disk."""
        self._marks[-1].read = self._now()

    def copied(self) -> None:
        """They have come to the accelerator."""
        self._marks[-1].copied = self._now()

    def ready(self) -> None:
        """Its weights are where it computes."""
        marks = self._marks[-1]
        waited = marks.read is not None or marks.copied is not None
        if waited or not self._sparing:
            marks.ready = self._now()

    def end(self) -> None:
        """It has computed."""
        self._marks[-1].end = self._now()

    def chosen(self) -> None:
        """The next token is chosen."""
        self._chosen = self._now()

    def over(self) -> None:
        """All that the pass has begun is done."""
        self._over = self._now()

    def _now(self) -> int:
        self._taken.append(self._take())
        return len(self._taken) - 1

    # ------------------------------------------------------------------ reading them

    def seconds(self) -> tuple[float, ...]:
        """Read them all, once each: seconds from the first one.

        The device has to be through with the pass. Quick, as it may lie between two steps; what
        the figures mean is for `times` to say, whenever.
        """
        first = self._taken[0]
        return tuple(_seconds(first, each) for each in self._taken)

    def times(self, seconds: Sequence[float]) -> PassTimes:
        """Say when each layer came to each stage.

        Parameters
        ----------
        seconds
            As `seconds` has read them.
        """

        def at(number: int | None, otherwise: float) -> float:
            return otherwise if number is None else seconds[number]

        layers = []
        for marks in self._marks:
            start = seconds[marks.start]
            read = at(marks.read, start)
            copied = at(marks.copied, read)
            ready = at(marks.ready, copied)
            end = at(marks.end, ready)
            layers.append(LayerTimes(marks.layer, marks.tier, start, read, copied, ready, end))
        chosen = at(self._chosen, layers[-1].end)
        return PassTimes(tuple(layers), chosen, at(self._over, chosen))


def _seconds(start: Moment, end: Moment) -> float:
    if isinstance(start, float) or isinstance(end, float):
        return float(end) - float(start)  # type: ignore[arg-type]  # readings of one clock
    return start.elapsed_time(end) / 1000
