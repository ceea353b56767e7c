"""A full-attention layer of a transformers cache, whose tokens may be on disk."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from ollm_widgets.kv.codecs.page import PageShape
from ollm_widgets.kv.tiers.history import History
from ollm_widgets.kv.tiers.store import OpenTiers, TierStore


class TieredLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer: pages on disk, pages in host memory, a hot tail.

    The oldest tokens are the coldest. While none are cold, `update` hands out views of the hot
    tail; else all tokens are brought together in a slot that the layers of the cache share. What
    it hands out holds until the next layer's `update`.

    Parameters
    ----------
    store
        What the layers of the cache share.
    index
        Which of them this is, in the order of a pass.
    """

    is_sliding = False
    is_croppable = True

    def __init__(self, store: TierStore, index: int) -> None:
        self._store = store
        self._index = index
        self._following: weakref.ref[TieredLayer] | None = None
        self._history: History | None = None
        super().__init__()  # type: ignore[no-untyped-call]

    def followed_by(self, layer: TieredLayer) -> None:
        """Say which tiered layer a pass reaches next, the last one's being the first."""
        self._following = weakref.ref(layer)

    # ------------------------------------------------------------------ what it holds

    @property
    def hot_tokens(self) -> int:
        """Tokens on the computing device in full precision."""
        return 0 if self._history is None else len(self._history.hot)

    @property
    def cold_tokens(self) -> int:
        """Tokens in pages."""
        return 0 if self._history is None else self._history.cold_tokens

    @property
    def hot_bytes(self) -> int:
        """Bytes of the hot tail's memory."""
        return 0 if self._history is None else self._history.hot.size_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes of pages in host memory."""
        return 0 if self._history is None else self._history.cold.host_bytes

    @property
    def keys(self) -> torch.Tensor | None:
        """All keys ``[batch, heads, tokens, width]``, read from every tier; None before any."""
        return None if self._history is None else self._history.read(0, len(self._history))[0]

    @keys.setter
    def keys(self, states: torch.Tensor | None) -> None:
        _refuse(states)

    @property
    def values(self) -> torch.Tensor | None:
        """All values ``[batch, heads, tokens, width]``, read from every tier; None before any."""
        return None if self._history is None else self._history.read(0, len(self._history))[1]

    @values.setter
    def values(self, states: torch.Tensor | None) -> None:
        _refuse(states)

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return 0 if self._history is None else len(self._history)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that `update` will return."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """There is no limit."""
        return -1

    def read_tokens(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``[batch, heads, stop - start, width]`` as attention reads them.

        Views where all of them are hot, to be used before the layer changes.

        Raises
        ------
        IndexError
            Unless ``0 <= start <= stop <= get_seq_length()``, or where there are no tokens yet.
        KVPageError
            When a page cannot be read as it was written.
        """
        if self._history is None or not 0 <= start <= stop <= len(self._history):
            raise IndexError(
                f"Tokens {start} to {stop} were asked for; there are {self.get_seq_length()}."
            )
        return self._history.read(start, stop)

    # ------------------------------------------------------------------ new tokens

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Learn shapes, dtype and device from the first states."""
        batch, heads, _, key_width = key_states.shape
        size, value_width = self._store.page_tokens, value_states.shape[-1]
        shape = PageShape(batch, heads, size, key_width, value_width, key_states.dtype)
        self.dtype, self.device, self.batch_size = key_states.dtype, key_states.device, batch
        if self._history is None or self._history.shape != shape:
            self._history = History(self._tiers(), self._index, shape)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens; return those of all.

        Raises
        ------
        KVPageError
            When a page cannot be read as it was written, or an earlier one could not be written;
            the new tokens are not added.
        OutOfMemory
            When the disk was full; the same.
        RuntimeClosedError
            When the cache was closed.
        """
        tiers, history = self._ready_for(key_states, value_states)
        before, total = len(history), len(history) + key_states.shape[-2]
        division = tiers.shares.division(total)
        if not history.cold_tokens and total <= division.hot_tokens:
            history.add(key_states, value_states, division.hot_tokens)
            return history.hot.tokens(0, total)
        tiers.slots.allow(division.slots)
        if before == 0:
            together = key_states, value_states
        else:
            together = self._together(tiers, history, key_states, value_states)
        history.add(key_states, value_states, division.hot_tokens)
        following = None if self._following is None else self._following()
        if following is not None and following._history is not None and following.cold_tokens:
            tiers.slots.prefetch(following._history.wanted(following.get_seq_length()))
        return together

    def append_tokens(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Add the states ``[batch, heads, tokens, width]`` of tokens without returning any.

        Raises
        ------
        KVPageError, OutOfMemory, RuntimeClosedError
            As `update`.
        """
        tiers, history = self._ready_for(keys, values)
        division = tiers.shares.division(len(history) + keys.shape[-2])
        history.add(keys, values, division.hot_tokens)

    def _ready_for(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[OpenTiers, History]:
        if self._history is None or len(self._history) == 0:
            self.lazy_initialization(keys, values)
        assert self._history is not None
        tiers = self._tiers()
        tiers.disk.raise_failure()
        tiers.shares.pass_reaches(self._index)
        return tiers, self._history

    def _together(
        self,
        tiers: OpenTiers,
        history: History,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All tokens and the new ones, in a slot."""
        before, cold = len(history), history.cold_tokens
        total = before + key_states.shape[-2]
        slot = tiers.slots.take(history.wanted(total))
        start = max(slot.ready, cold)
        if start < before:
            hot_keys, hot_values = history.hot.tokens(start - cold, before - cold)
            slot.keys[:, :, start:before].copy_(hot_keys)
            slot.values[:, :, start:before].copy_(hot_values)
        slot.keys[:, :, before:total].copy_(key_states.detach())
        slot.values[:, :, before:total].copy_(value_states.detach())
        # What leaves now in fewer bits is read in these by the next pass.
        slot.ready = total if self._store.codec.lossless else cold
        return slot.keys[:, :, :total], slot.values[:, :, :total]

    # ------------------------------------------------------------------ changes of what is there

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens.

        Parameters
        ----------
        tokens_to_remove
            Zero, or minus their number.

        Raises
        ------
        ValueError
            For a positive number.
        KVPageError
            When the page that is cut cannot be read; nothing is forgotten then.
        """
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop takes the number of tokens to remove as a negative one, not "
                f"{tokens_to_remove}."
            )
        if tokens_to_remove and self._history is not None:
            self._history.keep(max(len(self._history) + tokens_to_remove, 0))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let sequence i of the batch be what sequence ``beam_idx[i]`` was."""
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have each sequence `repeats` times, one copy after the other."""
        if self._history is not None:
            self._select(torch.arange(self._history.shape.batch).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the sequences that `indices` picks, in its order; numbers or booleans."""
        if self._history is not None:
            self._select(torch.arange(self._history.shape.batch)[indices.cpu()])

    def _select(self, rows: torch.Tensor) -> None:
        if self._history is not None and len(self._history):
            self._history.select(rows.cpu())
            self.batch_size = len(rows)

    def reset(self) -> None:
        """Empty it, and give its memory and room on disk back."""
        if self._history is not None and self._store.opened is not None:
            self._history.clear()
        self._history = None
        self.is_initialized = False
        self.__dict__.pop("batch_size", None)

    def copy_from(self, other: TieredLayer) -> None:
        """Hold what a layer of another cache holds; for one that is empty.

        Raises
        ------
        KVPageError
            When a page cannot be read as it was written.
        """
        if other._history is not None:
            self.lazy_initialization(*other._history.hot.tokens(0, 0))
            assert self._history is not None
            self._history.copy_from(other._history)

    def offload(self) -> None:
        """Nothing: what leaves the device is decided by the budget."""

    def prefetch(self) -> None:
        """Nothing: the next layer is always read ahead."""

    def _tiers(self) -> OpenTiers:
        return self._store.tiers(self.device)


def _refuse(states: torch.Tensor | None) -> None:
    if states is not None:
        raise AttributeError(
            "The keys and values of a tiered cache are set by update and append_tokens only."
        )
