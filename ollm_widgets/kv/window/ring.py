"""A cache layer that holds the last tokens in a ring, and the first ones beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.window.sight import Sight

# A ring that is not full grows by so many tokens at least, and by an eighth of itself.
_GROWTH_TOKENS = 256


class DroppedTokensError(KVStrategyError, RuntimeError):
    """Tokens that would be seen are dropped; a RuntimeError, as transformers' layers raise."""


class RingLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer, ``[batch, heads, sinks + ring, dim]``.

    The token at position ``p`` is in slot ``p % ring`` of the ring, the same for all rows. Sinks
    are copied out of it before it turns, sink ``s`` to slot ``sinks - 1 - s`` in front of it: so
    the sinks that have left the window, few at first, always lie next to the ring, and a single
    token gets a view of what it sees. Gradients do not pass through it.

    Parameters
    ----------
    sight
        The window, shared by the layers of a cache.
    """

    # What a query sees of it slides, whatever the model's layer does: see `WindowCache`.
    is_sliding = True
    # Tensors once the first states have come, which is before anything reads them.
    keys: Any
    values: Any

    def __init__(self, sight: Sight) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sight = sight
        self.record_past = False
        self._start_anew()

    def _start_anew(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self._seen = self._first = self._sunk = self._recorded = self._ring = 0

    @property
    def held_tokens(self) -> int:
        """Tokens whose keys and values are there."""
        return self._seen - self.dropped_tokens

    @property
    def dropped_tokens(self) -> int:
        """Tokens that have left the window and are no sinks."""
        return max(self._first - self._sight.sinks, 0)

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        """Whether `crop` can take back tokens: until the first one is dropped, or if recorded."""
        return self._first == 0 or self.record_past

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take device, type and shapes from the first states; memory comes as it is needed."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._buffer(key_states, 0)
        self.values = self._buffer(value_states, 0)
        self.is_initialized = True

    def _buffer(self, like: torch.Tensor, ring: int) -> torch.Tensor:
        batch, heads, _, dim = like.shape
        # Zeros, as what a mask hides is still multiplied by 0.
        return like.new_zeros((batch, heads, self._sight.sinks + ring, dim)).detach()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the states of new tokens; return what these see, in the order of `Columns`.

        Raises
        ------
        KVStrategyError
            If the window leaves something out and no mask was made that says so.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past, stop = self._seen, self._seen + key_states.shape[-2]
        if stop > self._sight.window and not self._sight.masks(past, stop):
            raise KVStrategyError(
                f"The window of {self._sight.window} tokens leaves out some of {stop}, but the "
                "attention mask of this pass was not made for it.",
                hint="Pass masks of [batch, tokens], over sdpa or eager attention; or use "
                "resident.",
            )
        self._fit(stop)
        if stop > self._sight.window:
            self._keep_sinks(key_states, value_states, past, stop)
        parts = self._parts(past, stop)
        if parts is not None:
            # What they see is overwritten by what they bring.
            keys = torch.cat([*(self.keys[:, :, part] for part in parts), key_states], dim=2)
            values = torch.cat([*(self.values[:, :, part] for part in parts), value_states], dim=2)
        self._write(key_states, value_states, stop)
        if parts is None:
            sinks = self._sight.sinks
            shown = self._sight.columns(past, stop - past)
            view = slice(sinks - shown.sinks, sinks + min(stop, self._sight.window))
            keys, values = self.keys[:, :, view], self.values[:, :, view]
        elif self._sight.in_ring_order(past, stop):
            keys, values = self._turned(keys, stop), self._turned(values, stop)
        return keys, values

    def _parts(self, past: int, stop: int) -> list[slice] | None:
        """The slots to put before new tokens; None where the ring will be what they see."""
        window = self._sight.window
        if stop <= window or (self._sight.in_ring_order(past, stop) and self._ring == window):
            return None
        shown = self._sight.columns(past, stop - past)
        sinks = slice(self._sight.sinks - shown.sinks, self._sight.sinks)
        return [sinks, *self._slots(shown.first, past)]

    def _turned(self, states: torch.Tensor, stop: int) -> torch.Tensor:
        """Columns of one token, brought from their own order into that of a ring's slots."""
        window = self._sight.window
        count = states.shape[2] - window
        return torch.cat([states[:, :, :count], states[:, :, count:].roll(stop % window, 2)], dim=2)

    def _slots(self, start: int, stop: int) -> list[slice]:
        """Where the positions `start` to `stop` are, of which the ring holds all."""
        if start >= stop:
            return []
        sinks, ring = self._sight.sinks, self._ring
        begin, count = start % ring, stop - start
        if begin + count <= ring:
            return [slice(sinks + begin, sinks + begin + count)]
        return [slice(sinks + begin, sinks + ring), slice(sinks, sinks + begin + count - ring)]

    def _write(self, key_states: torch.Tensor, value_states: torch.Tensor, stop: int) -> None:
        tokens = key_states.shape[-2]
        kept = min(tokens, self._ring)
        done = tokens - kept
        for part in self._slots(stop - kept, stop):
            after = done + part.stop - part.start
            self.keys[:, :, part].copy_(key_states[:, :, done:after].detach())
            self.values[:, :, part].copy_(value_states[:, :, done:after].detach())
            done = after
        self._seen = stop
        self._first = max(self._first, stop - self._ring)

    def _keep_sinks(
        self, key_states: torch.Tensor, value_states: torch.Tensor, past: int, stop: int
    ) -> None:
        """Copy sinks that are not in their own slots yet, from the ring and the new states."""
        end = self._sight.sinks_end
        if self._sight.sinks and (end is None or self._sunk < end):
            for part in self._slots(self._sunk, past):
                keys, values = self.keys[:, :, part], self.values[:, :, part]
                self._sink(keys, values, self._sunk)
                self._sunk += keys.shape[2]
            self._sink(key_states.detach(), value_states.detach(), past)
        self._sunk = stop

    def _sink(self, keys: torch.Tensor, values: torch.Tensor, start: int) -> None:
        """Copy the sinks among states of the positions from `start` on."""
        sinks, positions = self._sight.sinks, self._sight.positions
        stop = start + keys.shape[2]
        for states, buffer in ((keys, self.keys), (values, self.values)):
            if positions is None:
                last = min(sinks, stop)
                if start < last:
                    slots = buffer[:, :, sinks - last : sinks - start]
                    slots.copy_(states[:, :, : last - start].flip(2))
                continue
            at = positions.flip(1).to(states.device)[:, None, :, None]  # [batch, 1, sinks, 1]
            index = (at - start).clamp(0, stop - start - 1)
            found = states.gather(2, index.expand(-1, states.shape[1], -1, states.shape[3]))
            slots = buffer[:, :, :sinks]
            slots.copy_(torch.where((at >= start) & (at < stop), found, slots))

    def _fit(self, stop: int) -> None:
        """Make room for the tokens up to `stop`, as far as they are to be held."""
        limit = self._sight.window
        if self.record_past:
            limit = max(limit, stop - max(self._recorded + 1 - limit, 0))
        wanted = min(stop, limit)
        if self._ring < wanted:
            self._resize(min(limit, max(wanted, self._ring + max(_GROWTH_TOKENS, self._ring // 8))))
        elif self._ring > limit and not self.record_past:
            self._resize(limit)
        elif self.keys.is_inference() and not torch.is_inference_mode_enabled():
            # What inference mode has made can only be written to there.
            self.keys, self.values = self.keys.clone(), self.values.clone()

    def _resize(self, ring: int) -> None:
        """Give the ring another size; what does not fit is dropped, the oldest first."""
        first = max(self._first, self._seen - ring)
        held, sinks = self._slots(first, self._seen), slice(0, self._sight.sinks)
        before = (self.keys, self.values)
        self._ring, self._first = ring, first
        self.keys, self.values = (self._buffer(each, ring) for each in before)
        for buffer, old in zip((self.keys, self.values), before, strict=True):
            buffer[:, :, sinks] = old[:, :, sinks]
            states = [old[:, :, part] for part in held]
            _fill(buffer, self._slots(first, self._seen), states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the columns that `update` will return."""
        shown = self._sight.columns(self._seen, query_length)
        return shown.count, shown.offset

    def get_seq_length(self) -> int:
        """Tokens so far, dropped ones included."""
        return self._seen

    def get_max_length(self) -> int:
        """Tokens of the window."""
        return self._sight.window

    def activate_past_recording(self) -> None:
        """Drop nothing that `crop` may ask for, back to here or to its latest call."""
        self.record_past = True
        self._recorded = self._seen

    def left_by_crop(self, tokens_to_remove: int) -> int:
        """Tokens that are left when the last ones are taken back.

        Parameters
        ----------
        tokens_to_remove
            Not positive, as transformers wants it: -3 takes back three.

        Raises
        ------
        DroppedTokensError
            If the next query would see some that are not there any more.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"{tokens_to_remove} is not a negative number of tokens to remove.")
        left = max(self._seen + tokens_to_remove, 0)
        if left and self._first > max(left + 1 - self._sight.window, 0):
            raise DroppedTokensError(
                f"The window of {self._sight.window} tokens holds those from {self._first} to "
                f"{self._seen}; taken back to {left}, earlier ones would be seen again.",
                hint="Reset the cache and pass the whole prompt.",
            )
        return left

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens; see `left_by_crop`. Call that of the cache instead."""
        self._seen = self.left_by_crop(tokens_to_remove)
        self._recorded = self._seen
        self._sunk = min(self._sunk, self._seen)
        if not self._seen:
            self._first = 0

    def reset(self) -> None:
        """Empty it, and free its memory."""
        self._start_anew()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let the batch consist of these of its rows, ``[new batch]``."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Let the batch consist of these of its rows, ``[new batch]`` or bool ``[batch]``."""
        if self.is_initialized:
            rows = indices.to(self.keys.device)
            self.keys, self.values = self.keys[rows], self.values[rows]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        if self.is_initialized:
            self.keys = self.keys.repeat_interleave(repeats, dim=0)
            self.values = self.values.repeat_interleave(repeats, dim=0)


def _fill(buffer: torch.Tensor, slots: Sequence[slice], states: Sequence[torch.Tensor]) -> None:
    """Write `states`, one after the other, into `slots`, one after the other."""
    if states:
        whole = torch.cat(list(states), dim=2)
        done = 0
        for part in slots:
            after = done + part.stop - part.start
            buffer[:, :, part] = whole[:, :, done:after]
            done = after
