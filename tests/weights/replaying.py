"""Captured steps where there is no CUDA device: a trace stands in for the graph.

Like a graph, a trace knows only tensors at fixed addresses and runs no Python of the model; what
the host knew while it was made is frozen in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ollm_widgets.weights.steps.capture import CapturedSteps


class TracedSteps(CapturedSteps):
    """`CapturedSteps` on a CPU."""

    def _can_record(self) -> bool:
        return True

    def _record(self, step: Callable[[], None]) -> Callable[[], None]:
        def once() -> torch.Tensor:
            step()
            return self._logits

        return cast("Callable[[], None]", make_fx(once, tracing_mode="real")())
