"""The transformers cache behind a KV strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.window import window_cache

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

    from ollm_widgets.planning.config import KVStrategyId


def build_cache(
    model: PreTrainedModel, strategy: KVStrategyId, window_tokens: int | None = None
) -> Cache:
    """Make an empty cache for one sequence batch of `model`.

    Parameters
    ----------
    model
        The model that will fill it; its own special layers (sliding, linear attention)
        are kept by every strategy.
    strategy
        ``resident`` keeps every token; ``sliding-window-ring-buffer`` the last
        `window_tokens`.
    window_tokens
        Tokens a query may look back on, itself included.

    Raises
    ------
    KVStrategyError
        For a strategy that has no cache here, or a model that a window does not fit.
    """
    from transformers import DynamicCache

    if strategy == "resident":
        return DynamicCache(config=model.config)
    if strategy == "sliding-window-ring-buffer" and window_tokens is not None:
        return window_cache(model, window_tokens)
    raise KVStrategyError(
        f"No cache can be built here for the KV strategy {strategy!r}.",
        hint="Use resident, or sliding-window-ring-buffer with a number of window tokens.",
    )


def cache_bytes(cache: Cache) -> int:
    """Bytes of keys and values that `cache` holds now, on any device."""
    total = 0
    for layer in cache.layers:
        for states in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            if states is not None:
                total += states.numel() * states.element_size()
    return total
