"""Rings of buffers through which streamed layers pass, in a fixed cycle.

The streamed layers are numbered 0 to N - 1 in the order in which a pass needs them, and layer i
always passes through slot ``i % K``. So a layer's parameters are bound to their addresses once,
nothing is allocated or bound in a pass, and a pass can be captured in a CUDA graph. When a layer
has computed, its slot takes the layer K further on; near the end of a pass that is one of the
first layers of the next, so that the wire is never idle between two passes.

A ring heals itself: a pass that ended in the middle leaves the wrong layers in the slots, and the
next `take` starts over from the layer it wants.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from ollm_widgets.weights.pinned import HostBuffer

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.layout import LayerLayout
    from ollm_widgets.weights.quantized.form import StoredForm
    from ollm_widgets.weights.reading.reader import PendingRead, WeightReader
    from ollm_widgets.weights.trace import Recorder


class Ring(Protocol):
    """What the engine asks of a ring; indices count the streamed layers of a pass."""

    @property
    def slot_bytes(self) -> int:
        """Bytes of its buffers on the device that computes."""
        ...

    @property
    def staging_bytes(self) -> int:
        """Bytes of its buffers in host memory beside an accelerator."""
        ...

    def buffer(self, index: int) -> torch.Tensor:
        """Return the memory that layer `index` computes from, uint8; it never changes."""
        ...

    def take(self, index: int, cancel: threading.Event | None, recorder: Recorder | None) -> None:
        """Return once work enqueued from now on finds layer `index` in its buffer."""
        ...

    def give_back(self, index: int) -> None:
        """Say that all work on layer `index` is enqueued; its slot takes the next layer."""
        ...

    def close(self) -> None:
        """Stop what is under way and let the buffers go."""
        ...


def successor(index: int, slots: int, layers: int) -> int:
    """Return the layer that takes the slot of layer `index` after it."""
    return index + slots if index + slots < layers else index % slots


def refill_order(index: int, slots: int, layers: int) -> tuple[int, ...]:
    """Return the layers that fill all slots when a pass begins at layer `index`, in its order."""
    order: dict[int, int] = {}
    for step in range(layers):
        layer = (index + step) % layers
        order.setdefault(layer % slots, layer)
    return tuple(order.values())


def host_buffer(size_bytes: int) -> torch.Tensor:
    """Make a buffer of large pages, which are cheaper to copy into and to compute from; uint8."""
    return HostBuffer(size_bytes).tensor


class ReadingRing:
    """Slots in the memory that computes, filled straight from files.

    Quantized layers are expanded into one buffer that they share, which frees their slot before
    they have computed.

    Parameters
    ----------
    reader
        Reads ahead on its own threads, in the order of asking.
    layouts
        What is read of each streamed layer.
    slots
        Buffers; one that computes and at least one that is being filled.
    allocate
        Makes a buffer of that many bytes in host memory.
    forms
        What a layer is expanded from, None for one that is read as it runs; empty where nothing
        is expanded here.
    """

    staging_bytes = 0

    def __init__(
        self,
        reader: WeightReader,
        layouts: Sequence[LayerLayout],
        slots: int,
        allocate: Callable[[int], torch.Tensor] = host_buffer,
        forms: Sequence[StoredForm | None] = (),
    ) -> None:
        self._reader = reader
        self._layouts = tuple(layouts)
        self._forms = tuple(forms) or (None,) * len(self._layouts)
        raw = [form.raw_size_bytes for form in self._forms if form is not None]
        self._expanded = allocate(max(raw)) if raw else None
        count = min(max(slots, 1), len(layouts))
        size = max(layout.size_bytes for layout in layouts)
        self._slots = [allocate(size) for _ in range(count)]
        self._reads: list[PendingRead | None] = [None] * count
        self._holds: list[int | None] = [None] * count

    @property
    def slot_bytes(self) -> int:
        """Bytes of all slots, and of the buffer for expanded layers."""
        expanded = 0 if self._expanded is None else self._expanded.numel()
        return sum(slot.numel() for slot in self._slots) + expanded

    def buffer(self, index: int) -> torch.Tensor:
        """Return the memory that layer `index` computes from."""
        if self._forms[index] is not None and self._expanded is not None:
            return self._expanded
        return self._slots[index % len(self._slots)]

    def take(self, index: int, cancel: threading.Event | None, recorder: Recorder | None) -> None:
        """Wait until layer `index` has been read.

        Raises
        ------
        WeightReadError, CheckpointChangedError
            If its bytes cannot be had; the next `take` tries again.
        Cancelled
            Soon after `cancel` is set.
        """
        slot = index % len(self._slots)
        if self._holds[slot] != index:
            self._start_over(index)
        read = self._reads[slot]
        if read is not None:
            try:
                read.wait(cancel)
            except BaseException:
                self._forget()
                raise
            self._reads[slot] = None
        if recorder is not None:
            recorder.read()
        form = self._forms[index]
        if form is not None and self._expanded is not None:
            form.expand_into(self._slots[slot], self._expanded)
            self._refill(index)

    def give_back(self, index: int) -> None:
        """Read the next layer of this slot."""
        if self._forms[index] is None:
            self._refill(index)

    def _refill(self, index: int) -> None:
        following = successor(index, len(self._slots), len(self._layouts))
        if following != index:
            self._issue(following)

    def holds(self, index: int) -> bool:
        """Whether layer `index` is in its slot, or on its way there."""
        return self._holds[index % len(self._slots)] == index

    def has_read(self, index: int) -> bool:
        """Whether `take` of layer `index` would return at once."""
        read = self._reads[index % len(self._slots)]
        return self.holds(index) and (read is None or read.done())

    def close(self) -> None:
        """Cancel the reads under way and drop the slots."""
        self._forget()
        self._slots, self._expanded = [], None

    def _start_over(self, index: int) -> None:
        self._forget()
        for layer in refill_order(index, len(self._slots), len(self._layouts)):
            self._issue(layer)

    def _issue(self, index: int) -> None:
        slot = index % len(self._slots)
        self._holds[slot] = index
        self._reads[slot] = self._reader.read(self._layouts[index], self._slots[slot])

    def _forget(self) -> None:
        for read in self._reads:
            if read is not None:
                read.cancel()
        self._reads = [None] * len(self._slots)
        self._holds = [None] * len(self._slots)
