"""Projections of the same input as one matrix product, where their weights lie side by side.

Queries, keys and values, or gate and up, are each a product with the same hidden states. For a
single token such a product is bound by reading its weight, and a small one does not fill the
device. A layer's tensors follow each other in one buffer, so their weights already are one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# Linear modules that were given the same tensor, in the order of their calls.
Siblings = tuple[nn.Linear, ...]


@contextmanager
def observed_siblings(model: nn.Module) -> Iterator[list[Siblings]]:
    """Watch one pass; the list is filled when the context closes.

    Yields
    ------
    list of Siblings
        Plain linear modules without bias that read the same tensor one after the other.
    """
    calls: list[tuple[nn.Linear, torch.Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(partial(_note, calls))
        for module in model.modules()
        if type(module) is nn.Linear
        and module._parameters["bias"] is None
        and "forward" not in vars(module)
    ]
    groups: list[Siblings] = []
    try:
        yield groups
    finally:
        for hook in hooks:
            hook.remove()
    run: list[nn.Linear] = []
    last: torch.Tensor | None = None
    for module, given in calls:
        if given is not last:
            groups.append(tuple(run))
            run = []
        run.append(module)
        last = given
    groups.append(tuple(run))
    groups[:] = [group for group in groups if len(group) > 1]


@contextmanager
def joined(groups: Sequence[Siblings]) -> Iterator[int]:
    """Run siblings as one product while the context is open.

    Yields
    ------
    int
        How many groups could be joined: those whose weights lie side by side.
    """
    replaced: list[nn.Module] = []
    count = 0
    try:
        for group in groups:
            weight = _one_matrix(group)
            if weight is not None:
                shared = _Shared(group, weight)
                for number, module in enumerate(group):
                    vars(module)["forward"] = partial(shared.run, number)
                replaced += group
                count += 1
        yield count
    finally:
        for changed in replaced:
            del vars(changed)["forward"]


class _Shared:
    """The product of one group, made when its first member is called."""

    def __init__(self, group: Siblings, weight: torch.Tensor) -> None:
        self._group = group
        self._weight = weight
        self._widths = [module.out_features for module in group]
        self._input: torch.Tensor | None = None
        self._parts: tuple[torch.Tensor, ...] = ()

    def run(self, number: int, given: torch.Tensor) -> torch.Tensor:
        if number == 0:
            product = functional.linear(given, self._weight)
            self._input, self._parts = given, torch.split(product, self._widths, dim=-1)
        if given is not self._input:
            return functional.linear(given, self._group[number].weight)
        part = self._parts[number]
        if number == len(self._widths) - 1:
            self._input, self._parts = None, ()
        return part


def _note(
    calls: list[tuple[nn.Linear, torch.Tensor]], module: nn.Module, args: tuple[Any, ...]
) -> None:
    if isinstance(module, nn.Linear) and args and isinstance(args[0], torch.Tensor):
        calls.append((module, args[0]))


def _one_matrix(group: Siblings) -> torch.Tensor | None:
    """The weights of a group as one matrix ``[sum of out_features, in_features]``."""
    weights = [module.weight for module in group]
    first = weights[0]
    end = first.data_ptr()
    for weight in weights:
        alike = weight.dtype == first.dtype and weight.shape[1] == first.shape[1]
        if not alike or not weight.is_contiguous() or weight.data_ptr() != end:
            return None
        end += weight.numel() * weight.element_size()
    if len({weight.untyped_storage().data_ptr() for weight in weights}) > 1:
        return None
    rows = sum(weight.shape[0] for weight in weights)
    return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1))
