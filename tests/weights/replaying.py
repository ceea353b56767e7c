"""Captured steps where there is no CUDA device: a trace stands in for the graph.

Like a graph, a trace knows only tensors at fixed addresses and runs no Python of the model; what
the host knew while it was made is frozen in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ollm_widgets.weights.steps.capture import CapturedSteps
from ollm_widgets.weights.steps.fixed_cache import FixedCache
from ollm_widgets.weights.steps.moments import Moment
from ollm_widgets.weights.steps.recorded import RecordedSteps


class TracedSteps(CapturedSteps):
    """`CapturedSteps` on a CPU."""

    def _can_record(self) -> bool:
        return True

    def _record(self, step: Callable[[], None]) -> Callable[[], None]:
        def once() -> torch.Tensor:
            step()
            return self._logits

        return cast("Callable[[], None]", make_fx(once, tracing_mode="real")())


class StandInEvent:
    """A moment that every replay notes anew, as an event inside a graph."""

    def __init__(self) -> None:
        self.at_s: float | None = None

    def record(self) -> None:
        """Note the present moment."""
        self.at_s = time.perf_counter()

    def elapsed_time(self, end_event: StandInEvent) -> float:
        """Milliseconds until a later one."""
        assert self.at_s is not None
        assert end_event.at_s is not None
        return (end_event.at_s - self.at_s) * 1000


class TracedRecordedSteps(TracedSteps, RecordedSteps):
    """`RecordedSteps` on a CPU; a step's moments all pass at its end, in their order."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # those of RecordedSteps
        self.replays: list[bool] = []
        self.running = False
        self._events: list[StandInEvent] = []

    def _moment(self) -> Moment:
        event = StandInEvent()
        self._events.append(event)
        return event

    def _record(self, step: Callable[[], None]) -> Callable[[], None]:
        self._events = []
        # Unlike a capture, a trace runs what it sees: the step's own state goes back afterwards.
        kept = [(each, each.clone()) for each in self._state()]
        replay = super()._record(step)
        for tensor, before in kept:
            tensor.copy_(before)
        events = self._events

        def replayed() -> None:
            replay()
            self.replays.append(bool(events))
            for event in events:
                event.record()

        return replayed

    def _state(self) -> list[torch.Tensor]:
        kept = [self._token_ids, self._logits]
        kept += [] if self._positions is None else [self._positions]
        kept += [self._cache.clock.position] if isinstance(self._cache, FixedCache) else []
        return kept

    def _reached(self) -> Callable[[], bool]:
        return lambda: not self.running
