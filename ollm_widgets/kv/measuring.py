"""What a cache holds, ours or one of transformers' own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.kv.stats import KVStats

if TYPE_CHECKING:
    from transformers import Cache


def cache_bytes(cache: Cache) -> int:
    """Bytes of keys and values that `cache` holds in memory now, on any device."""
    stats = cache_stats(cache)
    return stats.accelerator_bytes + stats.host_bytes


def cache_stats(cache: Cache) -> KVStats:
    """What any cache holds, and what a tiered one has moved."""
    stats = getattr(cache, "stats", None)
    if callable(stats):
        figures: KVStats = stats()
        return figures
    layers = [layer for layer in cache.layers if hasattr(layer, "get_seq_length")]
    tokens = max((int(layer.get_seq_length()) for layer in layers), default=0)
    held = sum(layer_bytes(layer) for layer in cache.layers)
    return KVStats(tokens=tokens, hot_tokens=tokens, accelerator_bytes=held)


def layer_bytes(layer: object) -> int:
    """Bytes of keys and values that one of transformers' cache layers holds."""
    total = 0
    for states in (getattr(layer, "keys", None), getattr(layer, "values", None)):
        if states is not None:
            total += states.numel() * states.element_size()
    return total
