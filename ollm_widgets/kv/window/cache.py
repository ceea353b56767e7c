"""The cache that keeps the last tokens, and the first few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicSlidingWindowLayer

from ollm_widgets.kv.stats import KVStats
from ollm_widgets.kv.window.ring import RingLayer
from ollm_widgets.kv.window.sight import Place, Sight


class WindowCache(Cache):
    """See `ollm_widgets.kv.window.window_cache`, which makes it.

    Parameters
    ----------
    layers
        Those of a cache that bounds nothing.
    replaced
        Which of them are to have the window.
    window_tokens, sink_tokens
        See `window_cache`.
    """

    strategy = "sliding-window-ring-buffer"

    def __init__(
        self, layers: Sequence[Any], replaced: Sequence[int], window_tokens: int, sink_tokens: int
    ) -> None:
        self.window_tokens = window_tokens
        self.sink_tokens = sink_tokens
        self.replaced_layers = tuple(replaced)
        self._sight = Sight(window_tokens, sink_tokens)
        super().__init__(
            layers=[
                RingLayer(self._sight) if index in replaced else layer
                for index, layer in enumerate(layers)
            ]
        )

    @property
    def is_sliding(self) -> list[bool]:
        """Which layers slide in the model, whose masks transformers makes apart."""
        return [
            getattr(layer, "is_sliding", False) and not isinstance(layer, RingLayer)
            for layer in self.layers
        ]

    @property
    def is_croppable(self) -> bool:
        """Whether the last tokens can be taken back now: not once layers have dropped some."""
        return all(map(_croppable, self.layers))

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Tokens so far, with what the maker of the mask has to know of the window."""
        past = super().get_query_offset(layer_idx)
        # Layers that count no tokens are asked where the first one that does is meant.
        asked = (each for each in self.layers[layer_idx:] if isinstance(each, CacheLayerMixin))
        return Place.of(past, self._sight) if isinstance(next(asked, None), RingLayer) else past

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last tokens; -3 takes back three.

        Raises
        ------
        DroppedTokensError
            If the next query would see tokens that are not there any more; nothing has changed
            then.
        """
        left = [layer.left_by_crop(tokens_to_remove) for layer in self._rings()]
        super().crop(tokens_to_remove)
        self._sight.forget(max(left, default=0))

    def reset(self) -> None:
        """Empty it, and free its memory."""
        super().reset()  # type: ignore[no-untyped-call]
        self._sight.forget(0)

    close = reset

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let the batch consist of these of its rows, ``[new batch]``."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._sight.rearrange(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Let the batch consist of these of its rows, ``[new batch]`` or bool ``[batch]``."""
        super().batch_select_indices(indices)
        self._sight.rearrange(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)
        if self._sight.positions is not None:
            rows = torch.arange(len(self._sight.positions))
            self._sight.rearrange(rows.repeat_interleave(repeats))

    def stats(self) -> KVStats:
        """What the layers hold; a page of the ring is a token of a layer."""
        rings = self._rings()
        states = [
            each
            for layer in self.layers
            for each in (getattr(layer, "keys", None), getattr(layer, "values", None))
            if each is not None
        ]
        return KVStats(
            tokens=max((layer.get_seq_length() for layer in rings), default=0),
            hot_tokens=max((layer.held_tokens for layer in rings), default=0),
            accelerator_bytes=sum(each.numel() * each.element_size() for each in states),
            evicted_pages=sum(layer.dropped_tokens for layer in rings),
        )

    def _rings(self) -> list[RingLayer]:
        return [layer for layer in self.layers if isinstance(layer, RingLayer)]


def _croppable(layer: Any) -> bool:
    if isinstance(layer, DynamicSlidingWindowLayer):
        # It says so always, and raises where it has dropped tokens.
        return layer.record_past or layer.get_seq_length() < layer.sliding_window
    return bool(layer.is_croppable)
