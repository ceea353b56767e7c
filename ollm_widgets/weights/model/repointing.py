"""Having tensors of a module look at other memory, where the same bytes are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor that a module holds, and how it looks at its memory.

    Parameters
    ----------
    holder, name
        The module's dictionary that has it, and its name there.
    dtype, size, stride
        Its own.
    offset
        Elements between the beginning of the memory and its own.
    is_weight
        Whether a checkpoint gives it; else the model has computed it.
    """

    holder: dict[str, Any]
    name: str
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    is_weight: bool

    @property
    def version(self) -> int:
        """How often it was written to, as far as torch counts."""
        tensor = self.holder[self.name]
        return 0 if tensor.is_inference() else tensor._version

    def look_at(self, memory: torch.Tensor) -> None:
        """Look at `memory` from now on, uint8; a parameter stays the same object."""
        storage, began = memory.untyped_storage(), memory.storage_offset() // self.dtype.itemsize
        view = torch.empty(0, dtype=self.dtype, device=memory.device)
        view.set_(storage, began + self.offset, self.size, self.stride)
        tensor = self.holder[self.name]
        if isinstance(tensor, nn.Parameter):
            tensor.data = view
        else:
            self.holder[self.name] = view


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that tensors of a module look at, perhaps several of them.

    Parameters
    ----------
    bytes
        All of it, uint8.
    seen_by
        The tensors.
    """

    bytes: torch.Tensor
    seen_by: tuple[Held, ...]

    @property
    def is_weight(self) -> bool:
        """Whether it has anything from a checkpoint, which nobody computes anew."""
        return any(held.is_weight for held in self.seen_by)

    def move(self, memory: torch.Tensor) -> Memory:
        """Have the tensors look at `memory`, where the same bytes are or will be; uint8."""
        for held in self.seen_by:
            held.look_at(memory)
        return Memory(memory, self.seen_by)


def memories_of(model: nn.Module, layers: Collection[nn.Module], kind: str) -> list[Memory]:
    """The memory of a model on devices of one kind, without the weights of some layers.

    Parameters
    ----------
    model
        Whose parameters, buffers and plain attributes.
    layers
        What a checkpoint gives these is left out.
    kind
        Type of the devices: ``cuda``.
    """
    left_out = {id(module) for layer in layers for module in layer.modules()}
    found: dict[int, tuple[torch.UntypedStorage, list[Held]]] = {}
    for module in model.modules():
        for held in _held_by(module, weights=id(module) not in left_out):
            tensor = held.holder[held.name]
            if tensor.device.type == kind and tensor.numel():
                storage = tensor.untyped_storage()
                found.setdefault(storage.data_ptr(), (storage, []))[1].append(held)
    return [Memory(_all_of(storage), tuple(seen_by)) for storage, seen_by in found.values()]


def _held_by(module: nn.Module, *, weights: bool) -> Iterator[Held]:
    """The tensors of a module: all, or those only that no checkpoint gives."""
    if weights:
        yield from _held_in(module._parameters, is_weight=True)
    for held in _held_in(module._buffers, is_weight=False):
        is_weight = held.name not in module._non_persistent_buffers_set
        if weights or not is_weight:
            yield replace(held, is_weight=is_weight)
    yield from _held_in(vars(module), is_weight=False)


def _held_in(holder: dict[str, Any], *, is_weight: bool) -> Iterator[Held]:
    for name, tensor in holder.items():
        if isinstance(tensor, torch.Tensor):
            offset = int(tensor.storage_offset())
            size, stride = tensor.size(), tensor.stride()
            yield Held(holder, name, tensor.dtype, size, stride, offset, is_weight)


def _all_of(storage: torch.UntypedStorage) -> torch.Tensor:
    whole = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return whole.set_(storage)
