"""Giving the parameters of a module their memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def bind(module: nn.Module, views: Mapping[str, torch.Tensor]) -> None:
    """Make parameters and buffers of `module` look at `views`, by their names within it."""
    for name, view in views.items():
        owner, _, leaf = name.rpartition(".")
        holder = module.get_submodule(owner)
        if leaf in holder._parameters:
            holder._parameters[leaf] = nn.Parameter(view, requires_grad=False)
        else:
            holder._buffers[leaf] = view


def unbind(module: nn.Module) -> None:
    """Put what a checkpoint gives back on ``meta``: a module still held then holds no memory."""
    for holder in module.modules():
        for leaf, parameter in holder._parameters.items():
            if parameter is not None:
                nothing = torch.empty_like(parameter, device="meta")
                holder._parameters[leaf] = nn.Parameter(nothing, requires_grad=False)
        for leaf, buffer in holder._buffers.items():
            if buffer is not None and leaf not in holder._non_persistent_buffers_set:
                holder._buffers[leaf] = torch.empty_like(buffer, device="meta")
