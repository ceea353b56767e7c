from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.ids import KVStrategyId
from ollm_widgets.planning.kv_choice import choose_strategy
from ollm_widgets.planning.memory_map import MemoryMap, TierMemory
from ollm_widgets.planning.parts import KVPlan
from ollm_widgets.planning.traits import GENERIC_TRAITS, BackendTraits

DISK_TRAITS = replace(
    GENERIC_TRAITS, supports_disk_cache=True, kv_strategies=get_args(KVStrategyId)
)
RAM_TRAITS = replace(
    GENERIC_TRAITS,
    supports_disk_cache=False,
    kv_strategies=("resident", "sliding-window-ring-buffer"),
)


def room_for(kv_bytes: int, available_bytes: int = 100) -> MemoryMap:
    return MemoryMap((TierMemory("ram", "RAM", 100, 100, 0, available_bytes, kv_bytes=kv_bytes),))


@pytest.fixture
def choose(model: ResolvedModel) -> Any:
    def choose(
        traits: BackendTraits = DISK_TRAITS,
        memory: MemoryMap | None = None,
        resolved: ResolvedModel = model,
        **config: Any,
    ) -> KVPlan:
        return choose_strategy(
            RuntimeConfig("x", **config), traits, resolved, memory or room_for(10)
        )

    return choose


def test_what_was_asked_for_is_taken_and_nothing_stands_in_for_it(choose: Any) -> None:
    plan = choose(kv_cache_strategy="chunked", strategy_selector_profile="bounded-window")
    assert (plan.strategy, plan.rule, plan.fallbacks) == ("chunked", "explicit", ())
    assert plan.window_tokens is None


def test_what_the_backend_cannot_hold_is_refused_with_what_it_holds(choose: Any) -> None:
    with pytest.raises(KVStrategyError, match="resident, sliding-window-ring-buffer"):
        choose(RAM_TRAITS, kv_cache_strategy="paged")


def test_a_window_comes_before_the_lack_of_a_disk(choose: Any) -> None:
    plan = choose(RAM_TRAITS, kv_cache_window_tokens=99)
    assert (plan.strategy, plan.rule) == ("sliding-window-ring-buffer", "bounded-window")
    assert (plan.window_tokens, plan.fallbacks) == (99, ())


def test_the_bounded_window_profile_keeps_256_tokens_and_may_fall_back(choose: Any) -> None:
    plan = choose(RAM_TRAITS, strategy_selector_profile="bounded-window")
    assert (plan.rule, plan.window_tokens) == ("bounded-window", 256)
    assert plan.fallbacks == ("resident",)


def test_without_a_disk_cache_it_is_resident(choose: Any) -> None:
    for profile in ("balanced", "latency", "capacity"):
        plan = choose(RAM_TRAITS, strategy_selector_profile=profile)
        assert (plan.strategy, plan.rule) == ("resident", "no-disk-cache")


def test_latency_stays_resident_while_it_fits(choose: Any) -> None:
    fits = choose(memory=room_for(100), strategy_selector_profile="latency")
    assert (fits.strategy, fits.rule) == ("resident", "latency")
    assert choose(memory=room_for(101), strategy_selector_profile="latency").strategy == "paged"


def test_capacity_quantizes_text_only(choose: Any, model: ResolvedModel) -> None:
    plan = choose(strategy_selector_profile="capacity")
    assert (plan.strategy, plan.rule) == ("quantized-cold-tier", "capacity")
    sees = replace(model, capabilities=replace(model.capabilities, modalities=("text", "image")))
    assert choose(resolved=sees, strategy_selector_profile="capacity").strategy == "paged"


def test_balanced_is_resident_only_when_it_clearly_fits(choose: Any) -> None:
    assert choose(memory=room_for(50)).strategy == "resident"
    tight = choose(memory=room_for(51))
    assert (tight.strategy, tight.rule) == ("paged", "balanced")


def test_the_chain_holds_what_the_backend_can_hold_and_not_the_choice(choose: Any) -> None:
    assert choose(memory=room_for(51)).fallbacks == ("tiered-write-back", "chunked")
    few = replace(DISK_TRAITS, kv_strategies=("resident", "chunked"))
    plan = choose(few, memory=room_for(51))
    assert (plan.strategy, plan.fallbacks) == ("chunked", ())


def test_persistent_needs_a_strategy_on_disk(choose: Any) -> None:
    assert choose(kv_cache_lifecycle="persistent").strategy == "paged"
    with pytest.raises(KVStrategyError, match="runtime-scoped"):
        choose(RAM_TRAITS, kv_cache_lifecycle="persistent")


def test_a_model_that_slides_by_itself_takes_no_second_window(
    choose: Any, model: ResolvedModel
) -> None:
    assert model.shape is not None
    types = ("sliding_attention",) * 30
    gemma = replace(model, shape=replace(model.shape, sliding_window=512, layer_types=types))
    by_profile = choose(RAM_TRAITS, resolved=gemma, strategy_selector_profile="bounded-window")
    assert by_profile.strategy == "resident"
    with pytest.raises(KVStrategyError, match="sliding_attention"):
        choose(RAM_TRAITS, resolved=gemma, kv_cache_window_tokens=64)


def test_of_a_mixed_model_the_window_bounds_the_layers_that_see_everything(
    choose: Any, model: ResolvedModel
) -> None:
    assert model.shape is not None
    types = ("sliding_attention", "full_attention") * 15
    gemma = replace(model, shape=replace(model.shape, sliding_window=512, layer_types=types))
    assert choose(RAM_TRAITS, resolved=gemma, kv_cache_window_tokens=64).window_tokens == 64


def test_the_context_is_the_models_up_to_4096_unless_asked(
    choose: Any, model: ResolvedModel
) -> None:
    assert choose().context_tokens == 4096
    assert choose(context_tokens=8000).context_tokens == 8000
    short = replace(model, capabilities=replace(model.capabilities, context_length=1024))
    assert choose(resolved=short).context_tokens == 1024
