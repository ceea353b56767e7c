"""Tiered caches without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs import codec_named
from ollm_widgets.kv.tiers.store import TierStore
from ollm_widgets.kv.tiers.tiered_cache import TieredCache
from ollm_widgets.planning.kv_presets import preset_of


def cache_of(
    strategy: Any, budget: KVBudget, parent: Path, layers: int = 3, page_tokens: int = 4
) -> TieredCache:
    """A cache of which every layer is tiered."""
    preset = preset_of(strategy)
    codec = codec_named("full" if preset.codec == "full" else "int8")
    store = TierStore(preset, codec, budget, layers=layers, page_tokens=page_tokens, parent=parent)
    return TieredCache([None] * layers, list(range(layers)), store)
