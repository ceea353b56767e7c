"""The tokens of one layer by age: cold pages first, then the hot tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ollm_widgets.kv.codecs.page import PageShape
from ollm_widgets.kv.tiers.buffers import new_buffer
from ollm_widgets.kv.tiers.cold_part import ColdPart
from ollm_widgets.kv.tiers.hot_tail import HotTail
from ollm_widgets.kv.tiers.slots import Wanted
from ollm_widgets.kv.tiers.store import OpenTiers


class History:
    """Keeps the tokens of a layer whose shapes and device are known.

    Parameters
    ----------
    tiers
        Of the cache.
    layer
        Which of its layers.
    shape
        Of a page.

    Attributes
    ----------
    shape
        Of a page, with the batch as it is now.
    hot, cold
        The two parts.
    """

    def __init__(self, tiers: OpenTiers, layer: int, shape: PageShape) -> None:
        self._tiers = tiers
        self._layer = layer
        self.shape = shape
        self.hot = HotTail(shape, tiers.device)
        self.cold = ColdPart(tiers)
        self._tell_size()

    def __len__(self) -> int:
        return self.cold_tokens + len(self.hot)

    @property
    def cold_tokens(self) -> int:
        """Tokens in pages."""
        return len(self.cold) * self.shape.tokens

    def wanted(self, tokens: int) -> Wanted:
        """What a slot shall hold that has room for `tokens`."""
        capacity = self._tiers.shares.slot_tokens(tokens)
        return Wanted(self._layer, self.shape, tuple(self.cold.pages), capacity)

    def read(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some tokens; views where all of them are hot.

        Raises
        ------
        KVPageError
            When a page cannot be read as it was written.
        """
        cold, size = self.cold_tokens, self.shape.tokens
        if start >= cold:
            return self.hot.tokens(start - cold, stop - cold)
        first, last = start // size, -(-min(stop, cold) // size)
        offset, paged = first * size, (last - first) * size
        length = max(stop - offset, paged)
        keys, values = (
            new_buffer((batch, heads, length, width), self.shape.dtype, self._tiers.device)
            for batch, heads, _, width in (self.shape.keys, self.shape.values)
        )
        pages = self.cold.pages[first:last]
        self._tiers.slots.read(pages, keys[:, :, :paged], values[:, :, :paged])
        if stop > cold:
            hot_keys, hot_values = self.hot.tokens(0, stop - cold)
            keys[:, :, paged:].copy_(hot_keys)
            values[:, :, paged:].copy_(hot_values)
        asked = slice(start - offset, stop - offset)
        return keys[:, :, asked], values[:, :, asked]

    # ------------------------------------------------------------------ new tokens

    def add(self, keys: torch.Tensor, values: torch.Tensor, limit: int) -> None:
        """Add tokens to the hot tail; pages beyond `limit` tokens leave it, or never enter."""
        hot, size = self.hot, self.shape.tokens
        keys, values = keys.detach(), values.detach()
        count = len(hot) + keys.shape[-2]
        if count > limit:
            # A part of the tail at once, so that what stays moves to its front rarely.
            stay = max(limit - max(limit // 8, size), 0)
            leaving = min(-(-(count - stay) // size), count // size) * size
            pages, before = len(self.cold), len(self)
            try:
                self._evict(keys, values, leaving)
            except BaseException:
                # They have not left the hot tail: no token may be in both, or in a slot only.
                self._tiers.slots.truncate(self._layer, before)
                self.cold.forget_ahead(0)
                self.cold.forget(pages)
                raise
            entered = max(leaving - len(hot), 0)
            hot.drop_front(min(leaving, len(hot)))
            keys, values = keys[:, :, entered:], values[:, :, entered:]
        if hot.capacity > limit >= len(hot) + keys.shape[-2]:
            hot.resize(limit)
        hot.append(keys, values, limit)
        if self._tiers.writes_ahead:
            self._write_ahead()

    def _evict(self, keys: torch.Tensor, values: torch.Tensor, leaving: int) -> None:
        """Let the first `leaving` tokens of hot tail and new states become cold pages."""
        size, hot = self.shape.tokens, len(self.hot)
        start = self.cold.take_ahead(leaving // size) * size
        whole = hot // size * size
        while start < leaving:
            stop = min(start + self._batch_tokens(), leaving)
            if start < whole:
                stop = min(stop, whole)
            elif start < hot:
                stop = start + size
            self.cold.take_in(self.shape, *self._span(keys, values, start, stop))
            start = stop

    def _write_ahead(self) -> None:
        """Have the whole pages of the hot tail written."""
        size = self.shape.tokens
        start, whole = self.cold.pages_ahead * size, len(self.hot) // size * size
        while start < whole:
            stop = min(start + self._batch_tokens(), whole)
            self.cold.write_ahead(self.shape, *self.hot.tokens(start, stop))
            start = stop

    def _batch_tokens(self) -> int:
        """Tokens to encode at a time, whole pages."""
        pages = self._tiers.batch_bytes // self.shape.raw_bytes
        return max(pages, 1) * self.shape.tokens

    def _span(
        self, keys: torch.Tensor, values: torch.Tensor, start: int, stop: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of hot tail and new states, one after the other."""
        hot = len(self.hot)
        if stop <= hot:
            return self.hot.tokens(start, stop)
        new = slice(max(start - hot, 0), stop - hot)
        if start >= hot:
            return keys[:, :, new], values[:, :, new]
        hot_keys, hot_values = self.hot.tokens(start, hot)
        return (
            torch.cat([hot_keys, keys[:, :, new]], dim=2),
            torch.cat([hot_values, values[:, :, new]], dim=2),
        )

    # ------------------------------------------------------------------ changes of what is there

    def keep(self, tokens: int) -> None:
        """Forget all but the first `tokens`; a page that is cut returns to the hot tail.

        Raises
        ------
        KVPageError
            When the page that is cut cannot be read; nothing is forgotten then.
        """
        hot, cold, size = self.hot, self.cold, self.shape.tokens
        if tokens >= self.cold_tokens:
            self._tiers.slots.truncate(self._layer, tokens)
            hot.drop_back(len(self) - tokens)
            cold.forget_ahead(len(hot) // size)
            return
        whole = tokens // size
        keys, values = self.read(whole * size, tokens)
        self._tiers.slots.truncate(self._layer, tokens)
        hot.drop_front(len(hot))
        cold.forget_ahead(0)
        cold.forget(whole)
        hot.append(keys, values, max(hot.capacity, size))

    def select(self, rows: torch.Tensor) -> None:
        """Let sequence i of the batch be what sequence ``rows[i]`` was."""
        # Whoever reads pages now reads them in their old order, for a slot that is void.
        self._tiers.slots.truncate(self._layer, 0)
        listed: Sequence[int] = rows.tolist()
        self.cold.select(listed)
        self.hot.select(rows)
        self.shape = replace(self.shape, batch=len(listed))
        self._tell_size()

    def clear(self) -> None:
        """Free all pages; it is not to be used any more."""
        self._tiers.slots.truncate(self._layer, 0)
        self.cold.forget_ahead(0)
        self.cold.forget(0)

    def copy_from(self, other: History) -> None:
        """Take in copies of what a layer of another cache holds.

        Raises
        ------
        KVPageError
            When a page cannot be read as it was written.
        """
        self.cold.copy_from(other.cold)
        self.hot.append(*other.hot.tokens(0, len(other.hot)), max(len(other.hot), 1))

    def _tell_size(self) -> None:
        self._tiers.shares.learn(self._layer, self.shape.raw_bytes // self.shape.tokens)
