"""A transformers cache whose full-attention layers may be larger than memory."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs import PageCodec
from ollm_widgets.kv.measuring import layer_bytes
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.kv.tiers.layer import TieredLayer
from ollm_widgets.kv.tiers.store import TierStore
from ollm_widgets.planning.ids import KVStrategyId
from ollm_widgets.planning.kv_presets import KVPreset

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TieredCache(Cache):
    """See the module; made by `ollm_widgets.kv.cache.build_cache`. Call `close` when done.

    Parameters
    ----------
    layers
        Those of transformers, of which the full-attention ones are replaced here.
    replaced
        Which ones.
    store
        What those share.
    """

    def __init__(self, layers: list[Any], replaced: list[int], store: TierStore) -> None:
        self._store = store
        self.replaced_layers = tuple(replaced)
        tiered = []
        for place, index in enumerate(replaced):
            layers[index] = TieredLayer(store, place)
            tiered.append(layers[index])
        for layer, following in zip(tiered, tiered[1:] + tiered[:1], strict=True):
            layer.followed_by(following)
        super().__init__(layers=layers)
        self._finalizer = weakref.finalize(self, store.close)

    @property
    def strategy(self) -> KVStrategyId:
        """Which it is."""
        return self._store.preset.strategy_id

    @property
    def folder(self) -> Path | None:
        """Where its files are; None while there are none."""
        opened = self._store.opened
        return None if opened is None else opened.disk.folder

    def tiered_layers(self) -> list[TieredLayer]:
        """The replaced layers."""
        layers: list[Any] = self.layers
        return [layers[index] for index in self.replaced_layers]

    def stats(self) -> KVStats:
        """What it holds and has moved."""
        layers = self.tiered_layers()
        longest = max(layers, key=TieredLayer.get_seq_length, default=None)
        hot = sum(layer.hot_bytes for layer in layers) + self._stock_bytes()
        figures = KVStats(
            tokens=0 if longest is None else longest.get_seq_length(),
            hot_tokens=0 if longest is None else longest.hot_tokens,
            accelerator_bytes=hot,
            host_bytes=sum(layer.host_bytes for layer in layers),
        )
        opened = self._store.opened
        if opened is None:
            return figures
        disk, slots, reader = opened.disk, opened.slots, opened.reader
        on_host = opened.device.type == "cpu"
        beside = disk.pending_bytes + reader.host_bytes
        return figures + KVStats(
            accelerator_bytes=slots.size_bytes + reader.device_bytes + (beside if on_host else 0),
            host_bytes=0 if on_host else beside,
            disk_bytes=disk.live_bytes,
            evicted_pages=opened.evicted_pages,
            written_bytes=disk.written_bytes,
            read_bytes=disk.read_bytes,
            prefetch_hits=slots.hits,
            prefetch_misses=slots.misses,
        )

    def flush(self) -> None:
        """Return when every page on its way to disk is there.

        Raises
        ------
        OutOfMemory, KVPageError
            When one could not be written; it is still in memory.
        """
        opened = self._store.opened
        if opened is not None:
            opened.disk.drain()
            opened.disk.raise_failure()

    def reset(self) -> None:
        """Empty it, and give memory and room on disk back."""
        # Linear attention writes zeros into states, which may have been made in this mode.
        with torch.inference_mode():
            super().reset()  # type: ignore[no-untyped-call]
        opened = self._store.opened
        if opened is not None:
            opened.slots.clear()

    def close(self) -> None:
        """End its threads and remove its files; it cannot be used any more. May be repeated."""
        self._finalizer()

    def __deepcopy__(self, memo: dict[int, Any]) -> TieredCache:
        layers = [
            None if index in self.replaced_layers else copy.deepcopy(layer, memo)
            for index, layer in enumerate(self.layers)
        ]
        copied = TieredCache(layers, list(self.replaced_layers), self._store.another())
        memo[id(self)] = copied
        for mine, theirs in zip(copied.tiered_layers(), self.tiered_layers(), strict=True):
            mine.copy_from(theirs)
        return copied

    def __enter__(self) -> TieredCache:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _stock_bytes(self) -> int:
        return sum(layer_bytes(layer) for layer in self.layers if type(layer) is not TieredLayer)


def tiered_cache(
    model: PreTrainedModel,
    preset: KVPreset,
    codec: PageCodec,
    budget: KVBudget,
    *,
    parent: Path,
    page_tokens: int,
) -> TieredCache:
    """Make an empty cache for a model; see `ollm_widgets.kv.cache.build_cache`."""
    layers: list[Any] = list(DynamicCache(config=model.config).layers)
    keep = read_again(model)
    replaced = [
        index
        for index, layer in enumerate(layers)
        if type(layer) is DynamicLayer and index not in keep
    ]
    store = TierStore(
        preset, codec, budget, layers=len(replaced), page_tokens=page_tokens, parent=parent
    )
    return TieredCache(layers, replaced, store)


def read_again(model: PreTrainedModel) -> set[int]:
    """Layers whose keys later layers of the same pass read again, which a slot could not hold."""
    return {
        index
        for module in model.modules()
        if getattr(module, "store_full_length_kv", False)
        and isinstance(index := getattr(module, "layer_idx", None), int)
    }
