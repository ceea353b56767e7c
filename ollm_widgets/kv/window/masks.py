"""Masks over the columns of a windowed cache, in place of those that transformers would make.

transformers makes the mask of a pass from the number of tokens that the cache has seen, by a
function registered under the name of the attention. That number is a `Place` where the cache
has a window, and the functions here, registered in front of transformers' own, look for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
from transformers import AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ollm_widgets.kv.window.rows import WindowRows
from ollm_widgets.kv.window.sight import Place, Sight

ATTENTIONS = ("sdpa", "eager")


def see_windows() -> None:
    """Have sdpa and eager attention make masks for windowed caches too; idempotent."""
    for name in ATTENTIONS:
        make = ALL_MASK_ATTENTION_FUNCTIONS[name]
        if not hasattr(make, "sees_windows"):
            AttentionMaskInterface.register(name, _seeing(make, additive=name == "eager"))


def _seeing(make: Callable[..., Any], *, additive: bool) -> Callable[..., Any]:
    @functools.wraps(make)
    def mask(*args: Any, q_offset: Any = 0, **kwargs: Any) -> Any:
        if not isinstance(q_offset, Place):
            return make(*args, q_offset=q_offset, **kwargs)
        past, stop = int(q_offset), q_offset + kwargs["q_length"]
        real = _real(kwargs["attention_mask"], stop)
        q_offset.sight.masked(past, stop, real)
        if stop <= q_offset.sight.window:
            return make(*args, q_offset=past, **kwargs)
        return _windowed(past, real, q_offset.sight, additive, **kwargs)

    mask.sees_windows = True  # type: ignore[attr-defined]
    return mask


def _real(attention_mask: torch.Tensor | None, stop: int) -> torch.Tensor | None:
    """Which tokens are no padding, bool ``[batch, stop]``; None where all are."""
    if attention_mask is None:
        return None
    real = attention_mask[:, :stop]
    missing = stop - real.shape[1]
    if missing > 0:
        # As transformers takes a mask that is too short.
        real = torch.nn.functional.pad(real, (0, missing))
    return None if real.all() else real


def _windowed(
    past: int,
    real: torch.Tensor | None,
    sight: Sight,
    additive: bool,
    *,
    batch_size: int,
    q_length: int,
    mask_function: Callable[..., Any],
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device,
    **_others: Any,
) -> torch.Tensor | None:
    plain = allow_is_causal_skip and not use_vmap  # causal, perhaps with a window of the model's
    narrow = local_size is None or (sight.window <= local_size and not sight.sinks)
    if plain and narrow and q_length == 1 and real is None and not additive:
        return None  # all that the cache gives a single token is seen
    window = WindowMask(
        past=past,
        tokens=q_length,
        batch=batch_size,
        sight=sight,
        positions=sight.positions,
        real=real,
        function=mask_function,
        use_vmap=use_vmap,
        dtype=dtype if additive else None,
        device=device,
    )
    if q_length == 1 or not plain:
        return window.rows(0, q_length)
    return WindowRows.of(window)


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
