"""RMS norms as one kernel, on modules that transformers computes in six."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# [.., dim], weight [dim], epsilon -> [.., dim]
_Norm = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


@contextmanager
def fused_norms(model: nn.Module) -> Iterator[int]:
    """Run the model's RMS norms as one kernel while the context is open.

    A norm is taken for what it does, not for its name: one whose result on random values is
    not that of the kernel, to within the rounding of its dtype, is left alone.

    Yields
    ------
    int
        How many modules were replaced.
    """
    known: dict[tuple[Any, ...], _Norm | None] = {}
    replaced: list[nn.Module] = []
    try:
        for module in model.modules():
            if (norm := _fused(module, known)) is not None:
                module.forward = partial(_forward, module, norm)
                replaced.append(module)
        yield len(replaced)
    finally:
        for module in replaced:
            del module.forward


def _forward(module: nn.Module, norm: _Norm, hidden_states: torch.Tensor) -> torch.Tensor:
    weight = module.weight
    if not isinstance(weight, torch.Tensor):
        raise TypeError("a norm's weight is no tensor")
    if hidden_states.dtype != weight.dtype:
        # The kernel is for one dtype only.
        result: torch.Tensor = type(module).forward(module, hidden_states)
        return result
    return norm(hidden_states, weight, _epsilon(module) or 0.0)


def _fused(module: nn.Module, known: dict[tuple[Any, ...], _Norm | None]) -> _Norm | None:
    """The kernel that does what `module` does; None where there is none."""
    weight = module._parameters.get("weight")
    if (
        not type(module).__name__.endswith("RMSNorm")
        or weight is None
        or weight.ndim != 1
        or len(module._parameters) != 1
        or _epsilon(module) is None
        # Someone else's, such as an offloading hook.
        or "forward" in vars(module)
    ):
        return None
    key = (type(module), weight.shape, weight.dtype, weight.device, _epsilon(module))
    if key not in known:
        known[key] = _matching(module, weight)
    return known[key]


def _epsilon(module: nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps", "epsilon"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return None


def _matching(module: nn.Module, weight: nn.Parameter) -> _Norm | None:
    # The weight itself may not be here now: it may stream.
    generator = torch.Generator(device=weight.device).manual_seed(0)
    options: dict[str, Any] = {"dtype": weight.dtype, "device": weight.device}
    values = torch.randn(4, weight.shape[0], generator=generator, **options)
    scale = torch.randn(weight.shape[0], generator=generator, **options)
    probe = copy.copy(module)
    probe._parameters = {"weight": nn.Parameter(scale, requires_grad=False)}
    try:
        expected = type(module).forward(probe, values).float()
    except (TypeError, RuntimeError, ValueError):
        return None
    epsilon = _epsilon(module) or 0.0
    # transformers rounds to the dtype once more on the way than the kernel does.
    rounding = 4 * torch.finfo(weight.dtype).eps
    for norm in (_plain, _from_one):
        if torch.allclose(norm(values, scale, epsilon).float(), expected, rounding, rounding / 8):
            return norm
    return None


def _plain(hidden_states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return functional.rms_norm(hidden_states, weight.shape, weight, epsilon)


def _from_one(hidden_states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    # Gemma's weights are stored as the difference from one.
    return functional.rms_norm(hidden_states, weight.shape, 1.0 + weight, epsilon)
