"""The ring of an accelerator: slots in its memory, filled by copies on a stream of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ollm_widgets.weights.cuda import has_happened, new_event, new_stream
from ollm_widgets.weights.decoding import HeldForm, decode_into
from ollm_widgets.weights.rings.ring import ReadingRing, refill_order, successor

if TYPE_CHECKING:
    from ollm_widgets.weights.checkpoint.layout import LayerLayout
    from ollm_widgets.weights.trace import Recorder


@dataclass(frozen=True, slots=True)
class StreamedLayer:
    """A layer that does not live on the accelerator.

    Parameters
    ----------
    layout
        Its tensors in the buffer that it computes from.
    host
        Its bytes in page-locked host memory; None when they are on disk.
    form
        What they are decoded from; None when they are raw.
    """

    layout: LayerLayout
    host: torch.Tensor | None = None
    form: HeldForm | None = None

    @property
    def wire_bytes(self) -> int:
        """Bytes that cross to the accelerator in a pass."""
        return self.layout.size_bytes if self.form is None else self.form.size_bytes


class CopyingRing:
    """Slots on a CUDA device; a copy stream fills them while the current stream computes.

    Packed and quantized layers are decoded on the computing stream into one buffer that they share,
    which frees their slot before they have computed.

    Parameters
    ----------
    device
        Where the slots are.
    layers
        The streamed layers in the order of a pass.
    slots
        Layers in flight; enough to keep the wire busy through the gap between two passes.
    staging
        Fills host buffers with the layers that are on disk, in their order; None without any.
    """

    def __init__(
        self,
        device: torch.device,
        layers: Sequence[StreamedLayer],
        slots: int,
        staging: ReadingRing | None = None,
    ) -> None:
        self._device = device
        self._layers = tuple(layers)
        self._staging = staging
        on_disk = [index for index, layer in enumerate(self._layers) if layer.host is None]
        self._staged = {index: position for position, index in enumerate(on_disk)}
        count = min(max(slots, 1), len(layers))
        size = max(layer.wire_bytes for layer in layers)
        self._slots = [_device_buffer(size, device) for _ in range(count)]
        held = [layer.layout.size_bytes for layer in layers if layer.form is not None]
        self._decoded = _device_buffer(max(held), device) if held else None
        self._copies: torch.cuda.Stream = new_stream(device)
        self._holds: list[int | None] = [None] * count
        self._arrived: list[torch.cuda.Event | None] = [None] * count
        self._free: list[torch.cuda.Event | None] = [None] * count
        self._due: deque[int] = deque()
        self._leaving: deque[tuple[torch.cuda.Event, int]] = deque()

    @property
    def slot_bytes(self) -> int:
        """Bytes of slots and of the buffer for decoded layers."""
        decoded = 0 if self._decoded is None else self._decoded.numel()
        return sum(slot.numel() for slot in self._slots) + decoded

    @property
    def staging_bytes(self) -> int:
        """Bytes of page-locked memory between disk and accelerator."""
        return 0 if self._staging is None else self._staging.slot_bytes

    @property
    def capturable(self) -> bool:
        """Whether a pass is known to the accelerator in advance: nothing comes from disk."""
        return not self._staged

    def buffer(self, index: int) -> torch.Tensor:
        """Return the memory that layer `index` computes from."""
        if self._layers[index].form is not None and self._decoded is not None:
            return self._decoded
        return self._slots[index % len(self._slots)]

    def take(self, index: int, cancel: threading.Event | None, recorder: Recorder | None) -> None:
        """Let the current stream wait for layer `index`; blocks only for a read from disk."""
        slot = index % len(self._slots)
        if self._holds[slot] != index:
            self._start_over(index)
        if self._due:
            self._copy_what_has_been_read()
            while index in self._due:
                self._copy_from_staging(self._due.popleft(), cancel, recorder)
        arrived = self._arrived[slot]
        if arrived is not None:
            torch.cuda.current_stream(self._device).wait_event(arrived)
        if recorder is not None:
            recorder.copied()
        form = self._layers[index].form
        if form is not None and self._decoded is not None:
            decode_into(self._slots[slot], form, self._decoded)
            self._refill(index)

    def give_back(self, index: int) -> None:
        """Let the next layer follow into this slot once the current stream is done with it."""
        if self._layers[index].form is None:
            self._refill(index)

    def settle(self) -> None:
        """Have the first layers of a pass in their slots, as captured steps expect them."""
        wanted = refill_order(0, len(self._slots), len(self._layers))
        if any(self._holds[index % len(self._slots)] != index for index in wanted):
            self._start_over(0)
        torch.cuda.current_stream(self._device).wait_stream(self._copies)
        self._arrived = [None] * len(self._slots)

    def fork(self) -> None:
        """Begin a captured step: copies from now on belong to the capture."""
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        self._arrived = [None] * len(self._slots)

    def join(self) -> None:
        """End a captured step: it is over when its copies are."""
        torch.cuda.current_stream(self._device).wait_stream(self._copies)
        self._arrived = [None] * len(self._slots)

    def forget(self) -> None:
        """Fill the slots anew before the next layer is taken."""
        self._holds = [None] * len(self._slots)
        self._arrived = [None] * len(self._slots)

    def close(self) -> None:
        """Wait for the copies under way and let the buffers go."""
        torch.cuda.synchronize(self._device)
        if self._staging is not None:
            self._staging.close()
        self._slots, self._decoded = [], None

    # ------------------------------------------------------------------ filling slots

    def _start_over(self, index: int) -> None:
        """Forget the slots; whatever still computes from them or copies into them goes first."""
        count = len(self._slots)
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        # A staging buffer that left before would be filled anew while it leaves a second time.
        self._release_staging(wait=True)
        self._due.clear()
        self._free = [None] * count
        for layer in refill_order(index, count, len(self._layers)):
            self._issue(layer)

    def _refill(self, index: int) -> None:
        slots = len(self._slots)
        following = successor(index, slots, len(self._layers))
        if following == index:
            return
        done = new_event()
        done.record(torch.cuda.current_stream(self._device))
        self._free[index % slots] = done
        self._issue(following)

    def _issue(self, index: int) -> None:
        slot = index % len(self._slots)
        self._holds[slot] = index
        self._arrived[slot] = None
        host = self._layers[index].host
        if host is None:
            self._due.append(index)
        else:
            self._copy(index, host)

    def _copy(self, index: int, host: torch.Tensor) -> torch.cuda.Event:
        slot = index % len(self._slots)
        free = self._free[slot]
        if free is not None:
            self._copies.wait_event(free)
        arrived = new_event()
        with torch.cuda.stream(self._copies):
            self._slots[slot][: host.numel()].copy_(host, non_blocking=True)
            arrived.record(self._copies)
        self._arrived[slot] = arrived
        return arrived

    # ------------------------------------------------------------------ layers on disk

    def _copy_what_has_been_read(self) -> None:
        self._release_staging(wait=False)
        while self._due and self._reads().has_read(self._staged[self._due[0]]):
            self._copy_from_staging(self._due.popleft(), None, None)

    def _copy_from_staging(
        self, index: int, cancel: threading.Event | None, recorder: Recorder | None
    ) -> None:
        position = self._staged[index]
        reads = self._reads()
        if not reads.holds(position):
            self._release_staging(wait=True)
        try:
            reads.take(position, cancel, recorder)
        except BaseException:
            self._holds[index % len(self._slots)] = None
            raise
        size = self._layers[index].wire_bytes
        arrived = self._copy(index, reads.buffer(position)[:size])
        self._leaving.append((arrived, position))

    def _release_staging(self, *, wait: bool) -> None:
        """Let staging buffers whose bytes have crossed read their next layer."""
        while self._leaving:
            arrived, position = self._leaving[0]
            if wait:
                arrived.synchronize()
            elif not has_happened(arrived):
                return
            self._leaving.popleft()
            self._reads().give_back(position)

    def _reads(self) -> ReadingRing:
        if self._staging is None:
            raise RuntimeError("a layer is on disk, and nothing reads from there")
        return self._staging


def _device_buffer(size_bytes: int, device: torch.device) -> torch.Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8, device=device)
