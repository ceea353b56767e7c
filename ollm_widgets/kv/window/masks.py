"""Masks over the columns of a windowed cache, in place of those that transformers would make.

transformers makes the mask of a pass from the number of tokens that the cache has seen, by a
function registered under the name of the attention. That number is a `Place` where the cache
has a window, and the functions here, registered in front of transformers' own, look for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ollm_widgets.kv.window.rows import WindowRows
from ollm_widgets.kv.window.sight import Place, Sight
from ollm_widgets.kv.window.visible import WindowMask

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
