"""A cache that keeps the last N tokens, on an unmodified model.

A cache that drops old tokens is not enough: within one forward pass over many tokens every
query would still see all of them, and those that it keeps beside the last ones would be taken
for their neighbours. So the cache also tells transformers, as it makes a pass's mask, which
tokens its columns are; nothing else has to know of the window.

Positions are the tokens' own. A key keeps the rotation of the place where it stood, sinks too,
and a mask that shows each query the sinks and the last N tokens gives the same without a cache.
(StreamingLLM, https://arxiv.org/abs/2309.17453, numbers the tokens that are left anew for every
query, which takes keys that are not rotated yet.) Past the context that a model was trained on,
positions go on growing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.window.support import boundable_layers

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

    from ollm_widgets.kv.window.cache import WindowCache


def require_window_support(model: PreTrainedModel) -> None:
    """Refuse models that have nothing a window could bound.

    Raises
    ------
    KVStrategyError
        If no layer has full attention, or the attention does not go by masks.
    """
    boundable_layers(model)


def window_cache(model: PreTrainedModel, window_tokens: int, sink_tokens: int = 0) -> WindowCache:
    """Make an empty cache whose full-attention layers keep the last `window_tokens` tokens.

    Parameters
    ----------
    model
        The model that will fill it; its own sliding and linear layers are kept.
    window_tokens
        Tokens a query may look back on, itself included.
    sink_tokens
        First tokens of each row that stay visible on top; padding is none of them, by the
        attention mask that comes with the tokens.

    Raises
    ------
    KVStrategyError
        If the model has nothing to bound, or the numbers are no window.
    """
    if window_tokens < 1 or sink_tokens < 0:
        raise KVStrategyError(
            f"{window_tokens} tokens and {sink_tokens} sinks are not a window.",
            hint="Give a window of 1 or more tokens, and 0 or more sinks.",
        )
    layers, replaced = boundable_layers(model)
    from ollm_widgets.kv.window.cache import WindowCache
    from ollm_widgets.kv.window.masks import see_windows

    see_windows()
    return WindowCache(layers, replaced, window_tokens, sink_tokens)


def window_of(cache: Cache | None) -> int | None:
    """The window of a `window_cache`, None for any other cache."""
    found: Any = getattr(cache, "window_tokens", None)
    return found if isinstance(found, int) else None
