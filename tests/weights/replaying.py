"""Captured steps where there is no CUDA device: a trace stands in for the graph.

Like a graph, a trace knows only tensors at fixed addresses and runs no Python of the model; what
the host knew while it was made is frozen in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ollm_widgets.weights.steps.capture import CapturedSteps
from ollm_widgets.weights.steps.fixed_cache import FixedCache
from ollm_widgets.weights.steps.moments import Moment
from ollm_widgets.weights.steps.recorded import RecordedSteps

aten = torch.ops.aten


class Trace(TorchDispatchMode):
    """Notes each operation on tensors that runs within it, and does the same again when called.

    What an operation made is made anew by a replay. All other tensors are the ones that were
    there, at their addresses.
    """

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[OpOverload, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run it, unless it tells the host a value: nobody waits for one in a graph.

        Raises
        ------
        RuntimeError
            As a capture would.
        """
        if func is aten._local_scalar_dense.default:
            raise RuntimeError("the value of a tensor is not known while a step is recorded")
        # What a literal in Python gives is the same object each time, and may be written to.
        func = aten.clone.default if func is aten.lift_fresh.default else func
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, dict(kwargs or {}), result))
        return result

    def __call__(self) -> None:
        made: dict[int, torch.Tensor] = {}

        def anew(value: Any) -> Any:
            return made.get(id(value), value)

        for func, args, kwargs, result in self._operations:
            placed, named = tree_map_only(torch.Tensor, anew, (args, kwargs))
            again = func(*placed, **named)
            for one, other in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(one, torch.Tensor):
                    made[id(one)] = other


class TracedSteps(CapturedSteps):
    """`CapturedSteps` on a CPU."""

    def _can_record(self) -> bool:
        return True

    def _record(self, step: Callable[[], None]) -> Callable[[], None]:
        with Trace() as trace:
            step()
        return trace


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
