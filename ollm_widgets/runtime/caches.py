"""The KV caches of a runtime: those it fills by itself, and those it hands out by name."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.planning.kv_choice import kv_folder, kv_limit_bytes
from ollm_widgets.planning.kv_presets import DEFAULT_CODEC, DEFAULT_WINDOW_TOKENS, preset_of
from ollm_widgets.runtime.reuse import PrefixReuse, release

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

    from ollm_widgets.kv.persistent.store import PrefixStore
    from ollm_widgets.planning.config import KVCacheLifecycle, KVStrategyId, RuntimeConfig
    from ollm_widgets.planning.parts import KVPlan
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.planning.traits import BackendTraits

CacheKey = tuple[str, str, str, int | None]


def make_cache(model: PreTrainedModel, kv: KVPlan, folder: Path) -> Cache:
    """Make an empty cache as a plan says.

    Parameters
    ----------
    folder
        Under which pages go to disk; they leave it with the cache.
    """
    return build_cache(
        model,
        kv.strategy,
        kv.window_tokens,
        sink_tokens=kv.sink_tokens,
        budget=KVBudget(kv.device_budget_bytes, kv.host_budget_bytes),
        codec=kv.codec or DEFAULT_CODEC,
        folder=folder,
    )


def open_store(plan: RuntimePlan, model_path: Path, config: RuntimeConfig) -> PrefixStore | None:
    """Open what outlives the runtime of its prompts; None where nothing shall."""
    if config.kv_cache_lifecycle != "persistent":
        return None
    from ollm_widgets.kv.persistent.fingerprint import fingerprint_of
    from ollm_widgets.kv.persistent.store import PrefixStore

    codec = plan.kv.codec or "full"
    root = kv_folder(config)
    return PrefixStore.open(
        root,
        fingerprint_of(
            model_path,
            model=plan.resolved_model.display_name,
            dtype=plan.dtype,
            device=plan.device,
            codec=codec,
            adapter_dir=None if config.adapter_dir is None else Path(config.adapter_dir),
            # What was computed while cold pages were rounded is not what exact pages give.
            attention="exact" if codec == "full" else plan.kv.strategy,
        ),
        layout=preset_of(plan.kv.strategy).layout,
        codec=codec,
        limit_bytes=kv_limit_bytes(root),
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """A cache, and what continues it where it is persistent."""

    cache: Cache
    reuse: PrefixReuse | None


class CacheShelf:
    """One cache instance per resolved key; safe to use from several threads."""

    def __init__(self, traits: BackendTraits) -> None:
        self._traits = traits
        self._caches: dict[CacheKey, _Held] = {}
        self._lock = threading.Lock()

    def get_or_create(
        self,
        model: PreTrainedModel,
        plan: RuntimePlan,
        config: RuntimeConfig,
        model_path: Path,
        *,
        strategy: KVStrategyId,
        lifecycle: KVCacheLifecycle,
        window_tokens: int | None,
    ) -> Cache:
        """Return the cache for these choices, made on the first call.

        Parameters
        ----------
        plan, config
            What decides all that is not chosen here: budgets, codec, folder.

        Raises
        ------
        KVStrategyError
            If the backend cannot hold the strategy or the lifecycle.
        """
        self._check(strategy, lifecycle)
        bounded = strategy == "sliding-window-ring-buffer"
        window = (window_tokens or DEFAULT_WINDOW_TOKENS) if bounded else None
        key = (str(kv_folder(config)), strategy, lifecycle, window)
        with self._lock:
            if key not in self._caches:
                kv = replace(plan.kv, strategy=strategy, window_tokens=window)
                config = config.copy(kv_cache_lifecycle=lifecycle)
                cache = make_cache(model, kv, kv_folder(config))
                store = open_store(plan.refine(kv=kv), model_path, config)
                reuse = None if store is None else PrefixReuse(cache, store)
                self._caches[key] = _Held(cache, reuse)
            return self._caches[key].cache

    def _check(self, strategy: KVStrategyId, lifecycle: KVCacheLifecycle) -> None:
        held = self._traits.kv_strategies
        if strategy not in held:
            raise KVStrategyError(
                f"{self._traits.backend_id} holds {', '.join(held)}; {strategy} was asked for.",
                hint="Use one of these.",
            )
        if lifecycle == "persistent" and not preset_of(strategy).uses_disk:
            raise KVStrategyError(
                f"A persistent KV cache needs a strategy with pages on disk; {strategy} has none.",
                hint="Use paged, or the lifecycle runtime-scoped.",
            )

    def reuse_of(self, cache: Cache) -> PrefixReuse | None:
        """Return what continues a persistent cache of this shelf; None for any other."""
        with self._lock:
            found = (held.reuse for held in self._caches.values() if held.cache is cache)
            return next(found, None)

    def all(self) -> tuple[Cache, ...]:
        """Every cache on the shelf."""
        with self._lock:
            return tuple(held.cache for held in self._caches.values())

    def clear(self) -> None:
        """Close them all; what is persistent stays on disk."""
        with self._lock:
            held, self._caches = list(self._caches.values()), {}
        for each in held:
            if each.reuse is not None:
                each.reuse.close()
            release(each.cache)
