"""Which KV strategy a plan uses, by which rule, and what to try if it cannot be built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ollm_widgets.errors import ConfigError, KVStrategyError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.ids import KVRule, KVStrategyId
from ollm_widgets.planning.kv_presets import DEFAULT_CODEC, DEFAULT_WINDOW_TOKENS, preset_of
from ollm_widgets.planning.memory import disk_tier
from ollm_widgets.planning.memory_map import MemoryMap, TierMemory
from ollm_widgets.planning.parts import KVPlan
from ollm_widgets.planning.traits import BackendTraits
from ollm_widgets.render.units import parse_bytes
from ollm_widgets.settings import KV_LIMIT_VARIABLE, cache_dir, kv_limit

DEFAULT_CONTEXT_TOKENS = 4096
_RING: KVStrategyId = "sliding-window-ring-buffer"
# Lossless, and at home on disk: what stands in when memory is short.
_ON_DISK: tuple[KVStrategyId, ...] = ("paged", "tiered-write-back", "chunked")
_DISK_SHARE = 0.1
_CLEARLY = 0.5  # of the room left, so that a plan that is a little wrong still fits


def planned_context(config: RuntimeConfig, resolved: ResolvedModel) -> int:
    """Return the tokens to plan for: as asked, else the model's context, at most 4,096."""
    if config.context_tokens is not None:
        return config.context_tokens
    return min(resolved.capabilities.context_length or DEFAULT_CONTEXT_TOKENS, 4096)


def planned_window(config: RuntimeConfig, resolved: ResolvedModel) -> int | None:
    """Return the tokens that a bounded window would keep; None where all are kept."""
    asked = config.kv_cache_strategy == _RING or config.kv_cache_window_tokens is not None
    by_profile = (
        config.kv_cache_strategy is None and config.strategy_selector_profile == "bounded-window"
    )
    if asked or (by_profile and not _bounded_already(resolved)):
        return config.kv_cache_window_tokens or DEFAULT_WINDOW_TOKENS
    return None


def kept_by_window(config: RuntimeConfig, resolved: ResolvedModel) -> int | None:
    """Return the tokens that are held where a window bounds them, sinks included; else None."""
    window = planned_window(config, resolved)
    return None if window is None else window + config.kv_cache_sink_tokens


def kv_budget_bytes(config: RuntimeConfig) -> int | None:
    """Return the bytes that the KV cache may take on the device, where a person bounded them."""
    asked = config.kv_cache_memory_budget
    return None if asked is None else parse_bytes(asked)


def kv_folder(config: RuntimeConfig) -> Path:
    """Return the folder under which keys and values go to disk."""
    chosen = config.cache_dir
    return cache_dir() / "kv" if chosen is None else Path(chosen).expanduser().absolute()


def kv_limit_bytes(folder: Path) -> int:
    """Return the bytes that persistent pages under `folder` may take: a tenth of its disk.

    Raises
    ------
    ConfigError
        If ``OLLM_KV_LIMIT``, which overrides it, holds no size.
    """
    asked = kv_limit()
    if asked:
        try:
            return parse_bytes(asked)
        except ValueError as error:
            raise ConfigError(KV_LIMIT_VARIABLE, str(error)) from None
    return int(disk_tier(folder).capacity_bytes * _DISK_SHARE)


def on_several_devices(traits: BackendTraits) -> BackendTraits:
    """Return what a backend can hold where layers compute on several devices: all in memory."""
    return replace(
        traits,
        kv_strategies=tuple(each for each in traits.kv_strategies if not preset_of(each).uses_disk),
        supports_disk_cache=False,
    )


def choose_strategy(
    config: RuntimeConfig,
    traits: BackendTraits,
    resolved: ResolvedModel,
    memory: MemoryMap,
    *,
    spills: bool = False,
) -> KVPlan:
    """Choose the KV strategy: explicit, bounded window, no disk cache, then the profile.

    Parameters
    ----------
    memory
        The memory map with a KV cache of the planned context, within its budget.
    spills
        Whether the budget is less than the planned context takes.

    Raises
    ------
    KVStrategyError
        If what was asked for cannot be held: the strategy, the window or the lifecycle.
    """
    window = planned_window(config, resolved)
    strategy, rule, why, fallbacks = _choose(
        config, traits, resolved, memory, window=window, spills=spills
    )
    _require_held(strategy, traits)
    if spills and not preset_of(strategy).uses_disk:
        tokens = planned_context(config, resolved)
        raise KVStrategyError(
            f"kv_cache_memory_budget: {strategy} keeps all of {tokens:,} tokens on the device, "
            f"which takes more than {config.kv_cache_memory_budget}.",
            hint="Leave the KV strategy empty, use paged, or plan for fewer context tokens.",
        )
    if strategy == _RING and _bounded_already(resolved):
        raise KVStrategyError(
            f"{_RING} bounds layers of full attention; this model has only "
            f"{_bounded_already(resolved)}.",
            hint="Leave the KV strategy and the window empty: its own layers bound their memory.",
        )
    if config.kv_cache_lifecycle == "persistent" and not preset_of(strategy).uses_disk:
        raise KVStrategyError(
            f"A persistent KV cache needs a strategy with pages on disk; {strategy} has none, "
            f"and {traits.backend_id} holds {', '.join(traits.kv_strategies)}.",
            hint="Use the lifecycle runtime-scoped.",
        )
    return KVPlan(
        strategy=strategy,
        rule=rule,
        why=why,
        fallbacks=tuple(
            each for each in fallbacks if each in traits.kv_strategies and each != strategy
        ),
        window_tokens=window if strategy == _RING else None,
        context_tokens=planned_context(config, resolved),
        sink_tokens=config.kv_cache_sink_tokens if strategy == _RING else 0,
        codec=(config.kv_cache_codec or DEFAULT_CODEC) if not _keeps_bits(strategy) else None,
    )


def _keeps_bits(strategy: KVStrategyId) -> bool:
    return preset_of(strategy).codec == "full"


def refused_strategy(config: RuntimeConfig, resolved: ResolvedModel, why: str) -> KVPlan:
    """Return what was asked for, to show beside the reason why it cannot be had."""
    window = planned_window(config, resolved)
    asked = config.kv_cache_strategy or ("resident" if window is None else _RING)
    return KVPlan(
        strategy=asked,
        rule="explicit",
        why=why,
        window_tokens=window if asked == _RING else None,
        context_tokens=planned_context(config, resolved),
    )


_Choice = tuple[KVStrategyId, KVRule, str, tuple[KVStrategyId, ...]]


def _choose(
    config: RuntimeConfig,
    traits: BackendTraits,
    resolved: ResolvedModel,
    memory: MemoryMap,
    *,
    window: int | None,
    spills: bool,
) -> _Choice:
    if config.kv_cache_strategy is not None:
        return config.kv_cache_strategy, "explicit", "It was asked for.", ()
    if window is not None:
        by_window = config.kv_cache_window_tokens is not None
        source = "A window was asked for" if by_window else "The profile is bounded-window"
        # A window that was typed is a wish, not a hint: nothing stands in for it.
        return (
            _RING,
            "bounded-window",
            f"{source}: the last {window:,} tokens are kept.",
            () if by_window else ("resident",),
        )
    if not traits.supports_disk_cache:
        return "resident", "no-disk-cache", f"{traits.backend_id} keeps no KV cache on disk.", ()
    return _by_profile(config, traits, resolved, memory, spills=spills)


def _by_profile(
    config: RuntimeConfig,
    traits: BackendTraits,
    resolved: ResolvedModel,
    memory: MemoryMap,
    *,
    spills: bool,
) -> _Choice:
    held = [each for each in _ON_DISK if each in traits.kv_strategies]
    on_disk: KVStrategyId = held[0] if held else "resident"
    tier = next((tier for tier in memory.tiers if tier.kv_bytes), None)
    if config.strategy_selector_profile == "latency":
        if not spills and (tier is None or tier.fits):
            return "resident", "latency", "It fits, and nothing is faster.", _ON_DISK
        return on_disk, "latency", "A resident cache does not fit.", _ON_DISK
    if config.strategy_selector_profile == "capacity":
        quantizes = "quantized-cold-tier" in traits.kv_strategies
        if quantizes and resolved.capabilities.modalities == ("text",):
            why = "Quantized cold pages hold the most history of a text."
            return "quantized-cold-tier", "capacity", why, _ON_DISK
        return on_disk, "capacity", "Pages on disk hold the most history in full.", _ON_DISK
    in_memory = config.kv_cache_lifecycle != "persistent" and not spills
    if in_memory and (tier is None or _clearly_fits(tier)):
        why = "The whole cache takes at most half of the room that is left."
        return "resident", "balanced", why, _ON_DISK
    why = "A resident cache would take most of the room left."
    if spills:
        why = f"A resident cache would take more than {config.kv_cache_memory_budget}."
    elif config.kv_cache_lifecycle == "persistent":
        why = "A persistent cache needs pages that can go to disk."
    return on_disk, "balanced", why, _ON_DISK


def _clearly_fits(tier: TierMemory) -> bool:
    room_bytes = tier.available_bytes - (tier.needed_bytes - tier.kv_bytes)
    return tier.kv_bytes <= _CLEARLY * room_bytes


def _require_held(strategy: KVStrategyId, traits: BackendTraits) -> None:
    if strategy not in traits.kv_strategies:
        held = ", ".join(traits.kv_strategies)
        raise KVStrategyError(
            f"{traits.backend_id} cannot hold the KV strategy {strategy}; it holds {held}.",
            hint="Leave it empty for the best of these.",
        )


def _bounded_already(resolved: ResolvedModel) -> str:
    """Name the attention types of a model that bounds every layer itself; else empty."""
    types = resolved.shape.layer_types if resolved.shape is not None else None
    if types is None or "full_attention" in types:
        return ""
    return " and ".join(sorted(set(types)))
