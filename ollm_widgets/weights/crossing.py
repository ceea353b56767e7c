"""Layers on several devices: what they are given follows them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn


class DeviceCrossing:
    """Moves the inputs of each layer to its device, and the last one's output home.

    Parameters
    ----------
    layers, devices
        The layers in the order of a pass, and where each computes.
    home
        Where the pass begins and ends.
    """

    def __init__(
        self, layers: Sequence[nn.Module], devices: Sequence[torch.device], home: torch.device
    ) -> None:
        # Masks and position embeddings are the same for every layer of a pass: they cross once.
        self._crossed: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}
        self._hooks = [
            layer.register_forward_pre_hook(
                partial(self._follow, device, index == 0), with_kwargs=True
            )
            for index, (layer, device) in enumerate(zip(layers, devices, strict=True))
        ]
        self._hooks.append(layers[-1].register_forward_hook(partial(self._return, home)))

    def remove(self) -> None:
        """Let the layers be as they were."""
        for hook in self._hooks:
            hook.remove()
        self._crossed.clear()

    def _follow(
        self,
        device: torch.device,
        first: bool,
        _layer: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if first:
            self._crossed.clear()
        hidden = tuple(_moved(each, device) for each in args)
        return hidden, {name: self._shared(each, device) for name, each in kwargs.items()}

    def _return(self, home: torch.device, _layer: nn.Module, _args: Any, output: Any) -> Any:
        self._crossed.clear()
        return _moved(output, home)

    def _shared(self, value: Any, device: torch.device) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self._shared(each, device) for each in value)
        if not isinstance(value, torch.Tensor) or value.device == device:
            return value
        key = (id(value), device)
        if key not in self._crossed:
            # The original is kept too: its id must not be taken by another tensor.
            self._crossed[key] = (value, value.to(device))
        return self._crossed[key][1]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_moved(each, device) for each in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value
