"""The work of one read: items into the buffer, casts on the way, conversions at the end."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch

from ollm_widgets.weights.checkpoint.conversions import torch_dtype
from ollm_widgets.weights.reading.files import CheckpointFiles, Target
from ollm_widgets.weights.reading.plan import (
    ITEM_BYTES,
    Cast,
    Item,
    PlannedConversion,
    ReadPlan,
    Segment,
)

# Copies of fewer elements stay on the calling thread; larger ones would bring up torch's own
# threads beside each of ours.
_CAST_AT_ONCE = 32_000


class ReadWork:
    """What the items of a read do, from any thread.

    Parameters
    ----------
    plan
        The read.
    files
        From where.
    scratch
        Of the threads, kept from read to read.
    buffer
        To where: CPU, uint8 ``[bytes]``.
    """

    def __init__(
        self, plan: ReadPlan, files: CheckpointFiles, scratch: CastScratch, buffer: torch.Tensor
    ) -> None:
        self._plan = plan
        self._files = files
        self._buffer = _Memory(buffer)
        self._scratch = scratch
        self._lock = threading.Lock()
        self._conversions = [_Running(planned, planned.items) for planned in plan.conversions]

    def run(self, number: int) -> None:
        """Do one item of the plan, and the conversions whose last source it brought."""
        item = self._plan.items[number]
        if item.cast is not None:
            self._read_cast(item, item.cast)
        else:
            targets = [self._target(segment) for segment in item.segments]
            self._files.read(item.path, item.offset_bytes, targets)
        for conversion in item.conversions:
            with self._lock:
                running = self._conversions[conversion]
                running.items_left -= 1
                ready = running.items_left == 0
            if ready:
                self._convert(running)

    def _target(self, segment: Segment) -> Target:
        memory = self._buffer if segment.target < 0 else self._scratch_of(segment.target)
        end = segment.target_bytes + segment.size_bytes
        return Target(segment.span, memory.bytes[segment.target_bytes : end])

    def _read_cast(self, item: Item, cast: Cast) -> None:
        segment = item.segments[0]
        read = self._scratch.memory
        self._files.read(
            item.path,
            item.offset_bytes,
            [Target(segment.span, read.bytes[: segment.size_bytes])],
        )
        elements = segment.size_bytes // cast.source.itemsize
        source = read.tensor(0, segment.size_bytes).view(cast.source)
        target = self._buffer.tensor(segment.target_bytes, elements * cast.target.itemsize)
        target = target.view(cast.target)
        for first in range(0, elements, _CAST_AT_ONCE):
            end = first + _CAST_AT_ONCE
            target[first:end].copy_(source[first:end])

    def _scratch_of(self, number: int) -> _Memory:
        running = self._conversions[number]
        with self._lock:
            if running.scratch is None:
                size = running.planned.scratch_bytes
                running.scratch = _Memory(torch.empty(size, dtype=torch.uint8))
            return running.scratch

    def _convert(self, running: _Running) -> None:
        planned, scratch = running.planned, running.scratch
        if scratch is None:
            return
        tensors = [
            scratch.tensor(offset, span.size_bytes).view(torch_dtype(span)).view(span.shape)
            for span, offset in zip(planned.conversion.spans, planned.offsets_bytes, strict=True)
        ]
        made = planned.conversion.job.run(tensors)
        for landing in planned.landings:
            value = made[landing.name]
            if landing.rows is not None:
                value = value[list(landing.rows)]
            size = value.numel() * landing.dtype.itemsize
            target = self._buffer.tensor(landing.target_bytes, size)
            target.view(landing.dtype).view(value.shape).copy_(value)
        running.scratch = None


class _Memory:
    """The same bytes for system calls and for torch."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._array = tensor.numpy()
        self.bytes = memoryview(self._array)  # type: ignore[arg-type]

    def tensor(self, offset: int, size: int) -> torch.Tensor:
        # Not a view of the caller's tensor, which could be one of an inference mode that this
        # thread is not in.
        return torch.from_numpy(self._array[offset : offset + size])


@dataclass(slots=True)
class _Running:
    planned: PlannedConversion
    items_left: int
    scratch: _Memory | None = None


class CastScratch(threading.local):
    """Memory of one thread for bytes that are cast, made when it is first needed."""

    def __init__(self) -> None:
        self._memory: _Memory | None = None

    @property
    def memory(self) -> _Memory:
        """As much as an item needs."""
        if self._memory is None:
            self._memory = _Memory(torch.from_numpy(np.empty(ITEM_BYTES, np.uint8)))
        return self._memory
