"""Which columns of a windowed cache a new token sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

from ollm_widgets.kv.window.sight import Sight


@dataclass(frozen=True, slots=True)
class WindowMask:
    """The mask of `tokens` new tokens after `past`, of which any rows can be made.

    Parameters
    ----------
    past, tokens, batch
        What it is for.
    sight
        The window.
    positions
        Those of the sinks, as `sight` knew them.
    real
        Bool ``[batch, past + tokens]``, False for padding; None where there is none.
    function
        What the model allows, of transformers' mask functions.
    use_vmap
        Whether `function` takes single indices only.
    dtype
        Of an additive mask; None for a bool one.
    device
        Where it is made.
    """

    past: int
    tokens: int
    batch: int
    sight: Sight
    positions: torch.Tensor | None
    real: torch.Tensor | None
    function: Callable[..., Any]
    use_vmap: bool
    dtype: torch.dtype | None
    device: torch.device

    def rows(self, start: int, end: int) -> torch.Tensor:
        """The mask of tokens `start` to `end`, over the columns that the cache has for these.

        Returns
        -------
        torch.Tensor
            ``[batch, 1, end - start, columns]``.
        """
        past, stop = self.past + start, self.past + end
        shown = self.sight.columns(past, end - start)
        behind = torch.arange(shown.first, stop, device=self.device)
        if self.tokens == 1:
            behind = behind.roll(stop % self.sight.window)  # as in a full ring
        sinks = self._sinks()  # [batch or 1, sinks]
        before = sinks[:, : shown.sinks].flip(1)
        keys = torch.cat([before.clamp_min(0), behind.expand(len(sinks), -1)], dim=1)
        out = (before >= 0) & (before < shown.first)
        sunk = torch.cat([out, (behind[:, None] == sinks[:, None]).any(-1)], dim=1)
        queries = torch.arange(past, stop, device=self.device)
        near = keys[:, None] > queries[:, None] - self.sight.window
        seen = near | sunk[:, None]  # [batch or 1, queries, keys]
        seen[..., : shown.sinks] = out[:, None]
        if self.real is not None:
            # Behind the last query there is nothing yet.
            seen = seen & self.real.gather(1, keys.expand(self.batch, -1))[:, None]
        mask: torch.Tensor = seen[:, None] & self._allowed(queries, keys)
        mask = mask.expand(self.batch, -1, end - start, shown.count)
        if self.dtype is None:
            return mask
        none = torch.zeros((), dtype=self.dtype, device=self.device)
        return torch.where(mask, none, torch.finfo(self.dtype).min)

    def sink_columns(self, count: int) -> torch.Tensor:
        """Where the first `count` sinks are among the columns of all tokens.

        Returns
        -------
        torch.Tensor
            ``[batch or 1, count]``; any column, where there is no such sink.
        """
        whole = self.sight.columns(self.past, self.tokens)
        sinks = self._sinks()[:, :count]
        before = whole.sinks - 1 - torch.arange(count, device=self.device)
        column = torch.where(sinks < whole.first, before, sinks - whole.offset)
        return column.clamp(0, whole.count - 1)

    def _sinks(self) -> torch.Tensor:
        if self.positions is not None:
            return self.positions.to(self.device)
        return torch.arange(self.sight.sinks, device=self.device)[None]

    def _allowed(self, queries: torch.Tensor, keys: torch.Tensor) -> Any:
        """What the model allows itself, over positions ``[queries]`` and ``[batch or 1, keys]``."""
        rows = torch.arange(self.batch, device=self.device)
        head = torch.arange(1, device=self.device)
        if not self.use_vmap:
            return self.function(
                rows[:, None, None, None],
                head[None, :, None, None],
                queries[None, None, :, None],
                keys[:, None, None],
            )
        function = self.function
        for dims in ((None, None, None, 0), (None, None, 0, None), (None, 0, None, None)):
            function = torch.vmap(function, in_dims=dims, out_dims=0)
        with TransformGetItemToIndex():
            whole = torch.vmap(function, in_dims=(0, None, None, 0), out_dims=0)
            return whole(rows, head, queries, keys.expand(self.batch, -1))
