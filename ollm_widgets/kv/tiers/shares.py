"""How the memory of a KV cache is divided between its layers and what is in flight."""

from __future__ import annotations

from dataclasses import dataclass

UNBOUNDED_TOKENS = 1 << 62
_SMALLEST_TRANSFER_BYTES = 1 << 12
_LARGEST_TRANSFER_BYTES = 8 << 20
_LARGEST_PENDING_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Division:
    """What a cache may hold while its sequences have some length.

    Parameters
    ----------
    hot_tokens
        Of each layer, on the computing device; whole pages.
    slots
        Layers in flight.
    """

    hot_tokens: int
    slots: int


class Shares:
    """Divides a budget; the bytes of a token are learned from the layers' first states.

    Out of the accelerator's bytes come, in this order: what is being read and what waits to be
    written, where the computing device is the host; two slots that hold a layer's whole history
    each; equal numbers of hot tokens for all layers from what is left, two pages at least. Where
    two slots would leave less than that there is one, and nothing is read ahead.

    Parameters
    ----------
    hot_bytes
        Bytes of the whole cache on the computing device; None without a bound.
    layers
        How many share it.
    page_tokens
        Tokens of a page.
    on_host
        Whether the host computes, so that what waits to be written is in the same memory.
    """

    def __init__(
        self, hot_bytes: int | None, layers: int, page_tokens: int, *, on_host: bool
    ) -> None:
        self._hot_bytes = hot_bytes
        self._on_host = on_host
        self.page_tokens = page_tokens
        self.layers = layers
        self._token_bytes: dict[int, int] = {}
        self._latest = -1
        self._complete = False
        self._known: dict[int, Division] = {}

    def learn(self, layer: int, token_bytes: int) -> None:
        """Note what a token of a layer takes, when its first states come or its batch changes."""
        if self._token_bytes.get(layer) != token_bytes:
            self._token_bytes[layer] = token_bytes
            self._known.clear()

    def pass_reaches(self, layer: int) -> None:
        """Note the order of a pass: once it starts over, layers without states never get any."""
        if layer < self._latest and not self._complete:
            self._complete = True
            self._known.clear()
        self._latest = layer

    @property
    def transfer_bytes(self) -> int:
        """Bytes that are read or encoded at a time, if a page is not more."""
        budget = self._hot_bytes
        most = _LARGEST_TRANSFER_BYTES if budget is None else budget // 32
        return max(_SMALLEST_TRANSFER_BYTES, min(most, _LARGEST_TRANSFER_BYTES))

    @property
    def pending_bytes(self) -> int:
        """Bytes that may wait to be written."""
        budget = self._hot_bytes
        most = _LARGEST_PENDING_BYTES if budget is None else budget // 16
        return max(_SMALLEST_TRANSFER_BYTES, min(most, _LARGEST_PENDING_BYTES))

    def slot_tokens(self, tokens: int) -> int:
        """Capacity of a slot for `tokens`: an eighth more at most, so that it rarely grows."""
        step = max(self.page_tokens, (1 << max(tokens.bit_length() - 1, 0)) // 8)
        return -(-max(tokens, 1) // step) * step

    def division(self, tokens: int) -> Division:
        """Divide for sequences of `tokens`."""
        budget = self._hot_bytes
        if budget is None:
            return Division(UNBOUNDED_TOKENS, 1)
        capacity = self.slot_tokens(tokens)
        if capacity not in self._known:
            self._known[capacity] = self._divide(budget, capacity)
        return self._known[capacity]

    def _divide(self, budget: int, capacity: int) -> Division:
        known = self._token_bytes.values()
        every_layer = sum(known)
        if not self._complete:
            every_layer += (self.layers - len(known)) * (every_layer // max(len(known), 1))
        # With the slots of the next size: all are there before any other layer has shrunk.
        slot = max(known) * self.slot_tokens(capacity + 1)
        waiting = self.pending_bytes if self._on_host else 0
        left = budget - 2 * self.transfer_bytes - waiting
        least = 2 * self.page_tokens
        slots = min(2, self.layers)
        if left - slots * slot < least * every_layer:
            slots = 1
        tokens = (left - slots * slot) // every_layer // self.page_tokens * self.page_tokens
        return Division(max(tokens, least), slots)
