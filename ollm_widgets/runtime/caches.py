"""The KV caches that a runtime hands out by name."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.planning.kv_presets import DEFAULT_WINDOW_TOKENS

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

    from ollm_widgets.planning.config import KVCacheLifecycle, KVStrategyId
    from ollm_widgets.planning.traits import BackendTraits

CacheKey = tuple[str, str, str, int | None]


class CacheShelf:
    """One cache instance per resolved key; safe to use from several threads."""

    def __init__(self, traits: BackendTraits) -> None:
        self._traits = traits
        self._caches: dict[CacheKey, Cache] = {}
        self._lock = threading.Lock()

    def get_or_create(
        self,
        model: PreTrainedModel,
        *,
        cache_dir: Path | str | None,
        strategy: KVStrategyId,
        lifecycle: KVCacheLifecycle,
        window_tokens: int | None,
    ) -> Cache:
        """Return the cache for these choices, made on the first call.

        Raises
        ------
        KVStrategyError
            If the backend cannot hold the strategy or the lifecycle.
        """
        held = self._traits.kv_strategies
        if strategy not in held or lifecycle != "runtime-scoped":
            raise KVStrategyError(
                f"{self._traits.backend_id} holds {', '.join(held)}, for as long as the runtime "
                f"lives; {strategy} with lifecycle {lifecycle} was asked for.",
                hint="Use one of these, with lifecycle runtime-scoped.",
            )
        bounded = strategy == "sliding-window-ring-buffer"
        window = (window_tokens or DEFAULT_WINDOW_TOKENS) if bounded else None
        key = (str(cache_dir or ""), strategy, lifecycle, window)
        with self._lock:
            if key not in self._caches:
                self._caches[key] = build_cache(model, strategy, window)
            return self._caches[key]

    def all(self) -> tuple[Cache, ...]:
        """Every cache on the shelf."""
        with self._lock:
            return tuple(self._caches.values())

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._caches.clear()
