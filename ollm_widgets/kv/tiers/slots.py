"""Memory for the layers in flight: each holds one layer's whole history, cold part and hot."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from ollm_widgets.kv.codecs.page import PageShape
from ollm_widgets.kv.tiers.background import Background
from ollm_widgets.kv.tiers.buffers import new_buffer, new_event
from ollm_widgets.kv.tiers.pages import ColdPage
from ollm_widgets.kv.tiers.reading import PageReader


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a slot shall hold.

    Parameters
    ----------
    layer
        Which layer of the cache.
    shape
        Of a page of it, with its batch as it is now.
    pages
        Its cold pages, the oldest first.
    capacity
        Tokens to have room for.
    """

    layer: int
    shape: PageShape
    pages: Sequence[ColdPage]
    capacity: int

    @property
    def cold_tokens(self) -> int:
        """Tokens of the cold pages."""
        return len(self.pages) * self.shape.tokens


class Slot:
    """One layer in flight; attention reads from it.

    Parameters
    ----------
    device
        Where it is.

    Attributes
    ----------
    layer
        Whose tokens it holds; None where nobody's.
    ready
        Tokens from the first on that are right.
    filling
        What fills it just now.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = [new_buffer((0,), torch.uint8, device) for _ in range(2)]
        self._states = [new_buffer((0, 0, 0, 0), torch.uint8, device) for _ in range(2)]
        self._shape: PageShape | None = None
        self.layer: int | None = None
        self.ready = 0
        self.filling: Future[torch.cuda.Event | None] | None = None

    @property
    def keys(self) -> torch.Tensor:
        """Keys ``[batch, heads, at least the capacity asked for, width]``."""
        return self._states[0]

    @property
    def values(self) -> torch.Tensor:
        """Values ``[batch, heads, at least the capacity asked for, width]``."""
        return self._states[1]

    @property
    def size_bytes(self) -> int:
        """Bytes of its memory."""
        return sum(memory.nbytes for memory in self._memory)

    def release(self) -> None:
        """Hold nobody's tokens."""
        self.layer, self.ready = None, 0

    def hold(self, wanted: Wanted) -> None:
        """Become the slot of a layer, with room; keeps what it has where it is that layer's."""
        same = self.layer == wanted.layer and self._shape == wanted.shape
        if not same:
            self.layer, self._shape, self.ready = wanted.layer, wanted.shape, 0
        for place in range(2):
            if not same or self._states[place].shape[2] < wanted.capacity:
                self._arrange(place, wanted)

    def _arrange(self, place: int, wanted: Wanted) -> None:
        """Lay the keys or the values out in memory with room for the capacity."""
        batch, heads, _, width = (wanted.shape.keys, wanted.shape.values)[place]
        token_bytes = batch * heads * width * wanted.shape.dtype.itemsize
        before, kept = self._states[place], self.ready
        if len(self._memory[place]) < wanted.capacity * token_bytes:
            if not kept:
                # What is in the way goes first, so that both are never there at once.
                self._states[place] = before = before.new_empty(0)
                self._memory[place] = before
            size = (wanted.capacity * token_bytes,)
            self._memory[place] = new_buffer(size, torch.uint8, self._device)
        room = len(self._memory[place]) // token_bytes
        with torch.inference_mode(False):
            flat = self._memory[place][: room * token_bytes].view(wanted.shape.dtype)
            states = flat.view(batch, heads, room, width)
        if kept:
            states[:, :, :kept].copy_(before[:, :, :kept])
        self._states[place] = states


class Slots:
    """The slots that the layers of a cache share, and the thread that fills them.

    All but the filling happens on the caller's thread. A slot that was taken keeps its tokens
    until another one is taken, by when attention has been computed, or on CUDA been enqueued.

    Parameters
    ----------
    device
        Where attention is computed.
    reader
        What fills them.
    """

    def __init__(self, device: torch.device, reader: PageReader) -> None:
        self._device = device
        self._reader = reader
        self._thread = Background("kv-reader")
        self._slots: list[Slot] = [Slot(device)]
        self._taken: Slot | None = None
        self.hits = 0
        self.misses = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all slots."""
        return sum(slot.size_bytes for slot in self._slots)

    def allow(self, count: int) -> None:
        """Have `count` slots, one or two."""
        while len(self._slots) > count:
            slot = next(slot for slot in self._slots if slot is not self._taken)
            self._forgive(slot)
            self._slots.remove(slot)
        while len(self._slots) < count:
            self._slots.append(Slot(self._device))

    def take(self, wanted: Wanted) -> Slot:
        """Return a slot with the cold tokens of a layer; waits for them.

        Raises
        ------
        KVPageError
            When a page cannot be read as it was written; then no slot is the layer's.
        """
        slot = self._of(wanted.layer)
        hit = slot is not None
        if slot is None:
            # Rather the one that was taken last than one that is being filled for another layer.
            slot = min(
                self._slots, key=lambda slot: (slot.filling is not None, slot is self._taken)
            )
            self._forgive(slot)
        elif slot.filling is not None:
            hit = slot.filling.done()
            self._settle(slot)
        slot.hold(wanted)
        if slot.ready < wanted.cold_tokens:
            hit = False
            self._fill(slot, wanted)
            self._settle(slot)
        self.hits += hit
        self.misses += not hit
        self._taken = slot
        return slot

    def prefetch(self, wanted: Wanted) -> None:
        """Begin to fill the other slot for the layer that comes next, if there is another."""
        slot = self._of(wanted.layer)
        if slot is None:
            others = [slot for slot in self._slots if slot is not self._taken]
            if not others:
                return
            slot = others[0]
        if slot is self._taken:
            return
        if slot.filling is not None:
            if slot.layer == wanted.layer or not slot.filling.done():
                return
            self._forgive(slot)
        slot.hold(wanted)
        if slot.ready < wanted.cold_tokens:
            self._fill(slot, wanted)

    def truncate(self, layer: int, tokens: int) -> None:
        """Forget a layer's tokens from `tokens` on; all that reads its pages is over then."""
        slot = self._of(layer)
        if slot is None:
            return
        self._forgive(slot)
        slot.ready = min(slot.ready, tokens)
        if not slot.ready:
            slot.release()

    def read(self, pages: Sequence[ColdPage], keys: torch.Tensor, values: torch.Tensor) -> None:
        """Fill tensors beside the slots with some pages; see `PageReader.read`."""
        after = self._now()
        filled = self._thread.submit(lambda: self._reader.read(pages, keys, values, after)).result()
        if filled is not None:
            torch.cuda.current_stream(self._device).wait_event(filled)

    def clear(self) -> None:
        """Forget all tokens and let the memory go."""
        for slot in self._slots:
            self._forgive(slot)
        self._slots = [Slot(self._device)]
        self._taken = None

    def close(self) -> None:
        """End the thread and let the memory go."""
        self._thread.close()
        self._slots.clear()
        self._taken = None

    # ------------------------------------------------------------------ filling

    def _of(self, layer: int) -> Slot | None:
        return next((slot for slot in self._slots if slot.layer == layer), None)

    def _fill(self, slot: Slot, wanted: Wanted) -> None:
        tokens = wanted.shape.tokens
        first = slot.ready // tokens
        start, stop = first * tokens, wanted.cold_tokens
        keys, values = slot.keys[:, :, start:stop], slot.values[:, :, start:stop]
        pages, reader, after = wanted.pages[first:], self._reader, self._now()
        slot.ready = stop
        slot.filling = self._thread.submit(lambda: reader.read(pages, keys, values, after))

    def _settle(self, slot: Slot) -> None:
        """Wait for what is being filled; an error is that of the layer that it is for."""
        filling = slot.filling
        if filling is None:
            return
        try:
            filled = filling.result()
        except BaseException:
            slot.release()
            # Unless it was the waiting that was interrupted: then its memory is still written to.
            slot.filling = None if filling.done() else filling
            raise
        slot.filling = None
        if filled is not None:
            torch.cuda.current_stream(self._device).wait_event(filled)

    def _forgive(self, slot: Slot) -> None:
        """Wait for what is being filled, for its memory's sake only."""
        try:
            self._settle(slot)
        except Exception:
            slot.release()

    def _now(self) -> torch.cuda.Event | None:
        """On CUDA, when everything that has been enqueued so far is over."""
        if self._device.type != "cuda":
            return None
        return new_event(torch.cuda.current_stream(self._device))
