"""The memory map of a plan as bars, for cards that need no kernel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ollm_widgets.render.bars import Bar, Stretch

if TYPE_CHECKING:
    from ollm_widgets.planning.memory_map import MemoryMap, TierMemory


def memory_bars(memory: MemoryMap) -> tuple[Bar, ...]:
    """Return a bar for each tier that the plan puts something into, the fastest first."""
    return tuple(_bar(tier) for tier in memory.tiers if tier.needed_bytes)


def _bar(tier: TierMemory) -> Bar:
    """Draw a tier: the whole bar is what the plan may use, of a disk what it takes there."""
    whole_bytes = tier.needed_bytes if tier.place == "disk" else tier.available_bytes
    return Bar(tier.title, tier.summary(), whole_bytes, tuple(_stretches(tier)))


def _stretches(tier: TierMemory) -> Iterable[Stretch]:
    layers = f"{tier.layer_count} layer{'' if tier.layer_count == 1 else 's'}"
    for stretch in (
        Stretch("embeddings", tier.embeddings_bytes, tier.place),
        Stretch(layers, tier.layers_bytes, tier.place),
        Stretch("buffers", tier.staging_bytes, "buffers"),
        Stretch("KV", tier.kv_bytes, "kv"),
        Stretch("work", tier.activations_bytes, "work"),
    ):
        if stretch.size_bytes > 0:
            yield stretch
