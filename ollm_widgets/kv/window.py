"""Attention that looks back on the last N tokens only, on an unmodified model.

A cache that drops old tokens is not enough: within one forward pass over many tokens every
query would still see all of them. transformers lets a mask function be registered under the
name of an attention implementation, so the window is added to the causal mask there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import KVStrategyError

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


_WINDOW = "ollm_window_tokens"


def require_window_support(model: PreTrainedModel) -> None:
    """Refuse models whose attention cannot be bounded uniformly.

    Raises
    ------
    KVStrategyError
        If the model has sliding or linear layers of its own (mixing both kinds would give
        wrong masks), or an attention without a mask function.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise KVStrategyError(
            f"sliding-window-ring-buffer needs full attention in every layer; this model has "
            f"{', '.join(sorted(kinds))}.",
            hint="Use resident: the model's own layers already bound their memory.",
        )
    if model.config._attn_implementation != "sdpa":
        raise KVStrategyError(
            "sliding-window-ring-buffer needs the sdpa attention; this model uses "
            f"{model.config._attn_implementation}.",
            hint="Use resident.",
        )


def window_cache(model: PreTrainedModel, window_tokens: int) -> Cache:
    """Make an empty cache whose every layer keeps the last `window_tokens` tokens.

    Raises
    ------
    KVStrategyError
        If the model's attention cannot be bounded uniformly.
    """
    from transformers import Cache
    from transformers.cache_utils import DynamicSlidingWindowLayer

    require_window_support(model)
    layer_count = model.config.get_text_config(decoder=True).num_hidden_layers
    cache = Cache(layers=[DynamicSlidingWindowLayer(window_tokens) for _ in range(layer_count)])
    # Tells this cache from that of a model whose own layers all slide.
    setattr(cache, _WINDOW, window_tokens)
    return cache


def window_of(cache: Cache | None) -> int | None:
    """The window of a `window_cache`, None for any other cache."""
    return getattr(cache, _WINDOW, None)


@contextmanager
def windowed_attention(model: PreTrainedModel, window_tokens: int | None) -> Iterator[None]:
    """Bound attention to `window_tokens` while the context is open; None changes nothing."""
    if window_tokens is None:
        yield
        return
    model.config._attn_implementation = _register_window(window_tokens)
    try:
        yield
    finally:
        model.config._attn_implementation = "sdpa"


def _register_window(window_tokens: int) -> str:
    """Register attention and mask for one window length; idempotent. Returns the name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import (
        and_masks,
        causal_mask_function,
        sdpa_mask,
        sliding_window_overlay,
    )

    def window_mask(*, mask_function: Any = causal_mask_function, **kwargs: Any) -> Any:
        # The shortcut "no mask, is_causal instead" would lose the window.
        kwargs["allow_is_causal_skip"] = False
        bounded = and_masks(mask_function, sliding_window_overlay(window_tokens))
        return sdpa_mask(mask_function=bounded, **kwargs)

    name = f"ollm_window_{window_tokens}"
    AttentionInterface.register(name, sdpa_attention_forward)
    AttentionMaskInterface.register(name, window_mask)
    return name
