from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.ids import KVRule, KVStrategyId, SelectorProfile
from ollm_widgets.planning.passes import NATIVE_PASSES
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.reasons import rule_in_words
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.speed.predicted import Correction, LoadStage, SpeedPart

CLASS_NAME = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b")


@pytest.fixture(scope="session")
def gpu_of_8_gib(make_machine: Callable[..., Machine]) -> Machine:
    return make_machine(ram_gib=32, gpu_gib=(8,))


def test_it_says_what_runs_where_and_why(plan: Any) -> None:
    story = plan().explain()
    assert "optimized-native runs it on the CPU in float32" in story
    assert "This machine has no accelerator" in story
    assert "This CPU computes faster in float32" in story
    assert "30 layers in RAM. All of them fit" in story
    assert "rule balanced" in story
    assert "If it cannot be built: paged, then tiered-write-back, then chunked." in story
    assert "tokens/s" in story
    assert "all layers stay on the device that computes (full-residency)" in story


def test_what_was_asked_for_is_the_reason_of_what_is_chosen(plan: Any, server: Machine) -> None:
    asked = {
        "backend": "optimized-native",
        "device": "cuda:0",
        "dtype": "float16",
        "offload_gpu_layers": 10,
        "kv_cache_strategy": "paged",
    }
    story = plan(machine=server, **asked).explain()
    for reason in (
        "optimized-native was asked for.",
        "The device cuda:0 was asked for.",
        "The number format float16 was asked for.",
        "offload_gpu_layers=10 was asked for.",
        "because it was asked for (rule explicit)",
    ):
        assert reason in story


def test_layers_that_do_not_fit_are_told_with_their_tiers(
    plan: Any, large_model: ResolvedModel, gpu_of_8_gib: Machine
) -> None:
    made = plan(large_model, gpu_of_8_gib)
    story = made.explain()
    assert made.placement.summary() in story
    assert "Not all of them fit into GPU (Test GPU)" in story
    for tier in made.memory.tiers:
        assert tier.summary() in story


@pytest.mark.parametrize("rule", get_args(KVRule))
def test_every_rule_is_told_by_its_id_and_in_words(plan: Any, rule: KVRule) -> None:
    made = plan()
    story = made.refine(kv=replace(made.kv, rule=rule, why="So it is.")).explain()
    assert f"(rule {rule})" in story
    assert rule_in_words(rule) in story
    assert "So it is." in story


def test_every_pass_of_ours_is_told_in_words(plan: Any) -> None:
    ids = tuple(each.pass_id for each in NATIVE_PASSES)
    story = plan().refine(specialization_pass_ids=(*ids, "of-somebody-else")).explain()
    for pass_id in ids:
        assert f" ({pass_id})" in story
    assert "and of-somebody-else." in story


def test_states_and_fallbacks_are_told(plan: Any) -> None:
    made = plan()
    assert "will do with it" in made.explain()
    applied = made.refine(
        specialization_state="applied", applied_specialization_pass_ids=("full-residency",)
    )
    assert "What optimized-native does with it: all layers stay" in applied.explain()
    fallen = made.refine(
        backend_id="transformers-generic",
        specialization_state="fallback",
        specialization_pass_ids=(),
        fallback_reason="Its layers were not found.",
    ).explain()
    assert "transformers-generic took over: Its layers were not found." in fallen
    assert "optimized-native could not do its part" in fallen
    none = plan(use_specialization=False).explain()
    assert "No pass of optimized-native applies: use_specialization=False" in none


def test_speed_is_told_with_what_bounds_it_and_how_long_loading_takes(plan: Any) -> None:
    made = plan()
    speed = replace(
        made.speed,
        token_parts=(
            SpeedPart("the wire to the accelerator", 10, 5.0, 0.05),
            SpeedPart("computing", 0, 0.0, 0.01),
        ),
        load=(LoadStage("Read weights", 0.6), LoadStage("Warm up", 0.4)),
        correction=Correction(token=1.1, observations=3),
    )
    story = made.refine(speed=speed).explain()
    assert "What takes longest is the wire to the accelerator: 50 ms a token." in story
    assert "To load it: read weights 0.6 s, warm up 0.4 s, 1.0 s in all." in story
    assert "corrected by 3 earlier answers" in story


def test_a_refused_plan_says_why_and_what_to_do(
    plan: Any, large_model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    missing = plan(device="cuda").explain()
    assert missing.startswith("It does not run as asked.")
    assert "Leave the device on auto" in missing
    tight = plan(large_model, make_machine(2), backend="transformers-generic").explain()
    assert "does not fit: needs" in tight
    assert "choose a smaller model" in tight
    assert "are missing" in tight
    unsupported = replace(
        large_model,
        resolution_message="It is a pickle.",
        capabilities=replace(large_model.capabilities, support_level="unsupported"),
    )
    assert plan(unsupported).explain().startswith("It cannot run. It is a pickle. Choose another")


def test_a_model_that_is_not_here_is_told_as_it_will_run(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    story = plan(replace(large_model, model_path=None), server).explain()
    assert "are not on this machine" in story
    assert "Then it runs with optimized-native on cuda:0 in bfloat16." in story


def test_a_sink_is_told(plan: Any) -> None:
    story = plan(kv_cache_window_tokens=64, kv_cache_sink_tokens=4).explain()
    assert "the last 64 tokens are kept" in story
    assert "Beside them the first 4 tokens are kept." in story


@given(
    ram_gib=st.sampled_from([0.6, 2, 16, 64]),
    gpu_gib=st.sampled_from([(), (1,), (8,), (10, 10), (140,)]),
    size=st.sampled_from(["small", "large", "experts"]),
    strategy=st.none() | st.sampled_from(get_args(KVStrategyId)),
    profile=st.sampled_from(get_args(SelectorProfile)),
    backend=st.sampled_from([None, "optimized-native", "transformers-generic"]),
    layers=st.none() | st.integers(0, 40),
    here=st.booleans(),
)
def test_every_plan_tells_its_reasons_without_names_of_classes(
    selector: BackendSelector,
    model: ResolvedModel,
    large_model: ResolvedModel,
    expert_model: ResolvedModel,
    make_machine: Callable[..., Machine],
    ram_gib: float,
    gpu_gib: tuple[float, ...],
    size: str,
    strategy: KVStrategyId | None,
    profile: SelectorProfile,
    backend: Any,
    layers: int | None,
    here: bool,
) -> None:
    resolved = {"small": model, "large": large_model, "experts": expert_model}[size]
    resolved = resolved if here else replace(resolved, model_path=None)
    config = RuntimeConfig(
        "m",
        backend=backend,
        kv_cache_strategy=strategy,
        strategy_selector_profile=profile,
        offload_gpu_layers=layers,
    )
    made: RuntimePlan = selector.select(resolved, config, make_machine(ram_gib, gpu_gib))
    story = made.explain()
    assert made.reason in story
    assert f"(rule {made.kv.rule})" in story
    assert made.kv.why in story
    said = story.replace(resolved.display_name, "")
    for detail in made.details:
        assert detail in story or detail.startswith("KV cache: ")
    assert not CLASS_NAME.search(said), CLASS_NAME.search(said)
