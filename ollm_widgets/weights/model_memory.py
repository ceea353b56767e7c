"""What of a model is on accelerators beside layers that are moved one by one."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ollm_widgets.weights.copy_streams import Sending
from ollm_widgets.weights.host_copies import Block, HostCopies
from ollm_widgets.weights.model.repointing import Memory, memories_of

# Page-locked memory comes in large pages, so small tensors share a buffer.
_GROUP_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class _Group:
    """Some memory of the model that is copied together.

    Parameters
    ----------
    key
        What the copy is found by.
    memories, devices
        The memory, and where it belongs.
    state
        Tells whether a copy is still one: sizes, and how often each tensor was written to.
    """

    key: Hashable
    memories: tuple[Memory, ...]
    devices: tuple[torch.device, ...]
    state: tuple[int, ...]

    @classmethod
    def of(cls, key: Hashable, memories: Sequence[Memory]) -> _Group:
        return cls(
            key,
            tuple(memories),
            tuple(memory.bytes.device for memory in memories),
            (
                *(memory.bytes.numel() for memory in memories),
                *(held.version for memory in memories for held in memory.seen_by),
            ),
        )


class ModelMemory:
    """Moves a model's memory to host memory and back; its tensors follow.

    Parameters
    ----------
    model
        The model.
    layers
        Whose weights are left alone.
    kind
        Type of the devices that it leaves: ``cuda``.
    """

    def __init__(self, model: nn.Module, layers: Collection[nn.Module], kind: str) -> None:
        self._model = model
        self._layers = layers
        self._kind = kind
        self._groups: list[_Group] = []
        self._copied: dict[Hashable, tuple[int, ...]] = {}

    def blocks(self, copies: HostCopies) -> list[Block]:
        """What is to be copied now; what was written to since it came back loses its copy."""
        memories = memories_of(self._model, self._layers, self._kind)
        # What is computed, as rotary frequencies, may be computed anew.
        fixed = [each for each in memories if each.is_weight]
        computed = [each for each in memories if not each.is_weight]
        self._groups = [
            _Group.of(("model", number), some) for number, some in enumerate(_grouped(fixed))
        ]
        if computed:
            self._groups.append(_Group.of("computed", computed))
        for group in self._groups:
            if group.key in copies and self._copied.get(group.key) != group.state:
                copies.drop(group.key)
        return [
            Block(group.key, tuple(memory.bytes for memory in group.memories))
            for group in self._groups
        ]

    def leave(self, copies: HostCopies) -> None:
        """Have all tensors look at their copies."""
        self._groups = [_moved(group, copies.pieces(group.key)) for group in self._groups]

    def come_back(self, copies: HostCopies, sending: Sending) -> None:
        """Have all tensors look at new memory where they belong, and send it their bytes.

        Raises
        ------
        torch.OutOfMemoryError
            Before anything has changed.
        """
        new = [
            [
                torch.empty(memory.bytes.numel(), dtype=torch.uint8, device=device)
                for memory, device in zip(group.memories, group.devices, strict=True)
            ]
            for group in self._groups
        ]
        for number, (group, targets) in enumerate(zip(self._groups, new, strict=True)):
            for target, source in zip(targets, copies.pieces(group.key), strict=True):
                sending.add(target, source)
            self._groups[number] = _moved(group, targets)

    def note_arrival(self, copies: HostCopies) -> None:
        """Remember what the copies that are kept are copies of."""
        copies.drop("computed")
        self._groups = [_Group.of(group.key, group.memories) for group in self._groups]
        self._copied = {group.key: group.state for group in self._groups}

    @property
    def keys(self) -> set[Hashable]:
        """What its copies are found by."""
        return {group.key for group in self._groups}


def _moved(group: _Group, targets: Sequence[torch.Tensor]) -> _Group:
    moved = [memory.move(target) for memory, target in zip(group.memories, targets, strict=True)]
    return _Group(group.key, tuple(moved), group.devices, group.state)


def _grouped(memories: Sequence[Memory]) -> list[list[Memory]]:
    groups: list[list[Memory]] = []
    room_bytes = 0
    for memory in memories:
        if not groups or memory.bytes.numel() > room_bytes:
            groups.append([])
            room_bytes = _GROUP_BYTES
        groups[-1].append(memory)
        room_bytes -= memory.bytes.numel()
    return groups
