"""A windowed mask that is made in blocks, where attention comes to need it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ollm_widgets.kv.lazy_mask import LazyMask

if TYPE_CHECKING:
    from ollm_widgets.kv.window.visible import WindowMask

# Queries that attend at a time: fewer waste less on what they do not see, more keep busy.
_LEAST, _MOST = 256, 2048

# Under a mask that is there already.
attend_dense = functional.scaled_dot_product_attention


class WindowRows(LazyMask):
    """A mask ``[batch, 1, tokens, columns]`` of which most is never built.

    In a prompt much longer than the window, all but a narrow band is False.
    `scaled_dot_product_attention` goes along that band, block by block, so that its work and
    memory grow with the window and not with the prompt; whoever cuts a prompt into chunks asks
    for their `rows`. Any other use sees an ordinary tensor.
    """

    window: WindowMask

    @staticmethod
    def of(window: WindowMask) -> WindowRows:
        """The mask of all tokens of `window`."""
        columns = window.sight.columns(window.past, window.tokens).count
        one = torch.zeros((), dtype=window.dtype or torch.bool, device=window.device)
        mask = one.expand(window.batch, 1, window.tokens, columns).as_subclass(WindowRows)
        mask.window, mask._built = window, None
        return mask

    def rows(self, start: int, end: int) -> torch.Tensor:
        """The mask of tokens `start` to `end`, over the keys that a cache has for these alone."""
        return self.window.rows(start, end)

    def build(self) -> torch.Tensor:
        """Make the mask of all tokens."""
        return self.window.rows(0, self.window.tokens)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """`scaled_dot_product_attention`, each block of queries over the keys that it sees."""
        window = self.window
        size = min(max(window.sight.window, _LEAST), _MOST)
        if window.tokens <= size or key.shape[-2] != self.shape[-1]:
            return attend_dense(query, key, value, attn_mask=self.built(), **options)
        found = query.new_empty((*query.shape[:-1], value.shape[-1]))
        for start in range(0, window.tokens, size):
            end = min(start + size, window.tokens)
            found[..., start:end, :] = attend_dense(
                query[..., start:end, :],
                _of_block(key, window, start, end),
                _of_block(value, window, start, end),
                attn_mask=window.rows(start, end),
                **options,
            )
        return found


def _of_block(states: torch.Tensor, window: WindowMask, start: int, end: int) -> torch.Tensor:
    """What a cache would return for a block alone, out of what it returned for all tokens."""
    whole = window.sight.columns(window.past, window.tokens)
    block = window.sight.columns(window.past + start, end - start)
    behind = states[:, :, block.first - whole.offset : block.stop - whole.offset]
    if not block.sinks:
        return behind
    index = window.sink_columns(block.sinks)[:, None, :, None].flip(2)
    wide = index.expand(len(states), states.shape[1], -1, states.shape[3])
    return torch.cat([states.gather(2, wide), behind], dim=2)
