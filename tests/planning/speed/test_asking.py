from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.speed.asking import predict_for
from ollm_widgets.planning.speed.correcting import corrected
from ollm_widgets.planning.speed.predicted import Correction


@pytest.fixture
def planned(h200: Bandwidth, large_model: ResolvedModel, server: Machine) -> Any:
    def planned(resolved: ResolvedModel = large_model, **config: Any) -> RuntimePlan:
        selector = BackendSelector(measure=lambda device: h200)
        return selector.select(resolved, RuntimeConfig("x", **config), server)

    return planned


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"gpu_memory_budget": "6GiB"},
        {"gpu_memory_budget": "6GiB", "cpu_memory_budget": "4GiB"},
        {"device": "cpu"},
        {"use_cache": False},
        {"backend": "transformers-generic"},
        {"kv_cache_strategy": "paged", "kv_cache_memory_budget": "64MiB"},
    ],
)
def test_a_plan_answers_for_its_own_prompt_what_it_says_itself(
    config: dict[str, Any], planned: Any
) -> None:
    plan = planned(**config)
    assert plan.speed is not None
    assert predict_for(plan, plan.speed.prompt_tokens) == plan.speed


def test_a_longer_prompt_and_a_history_take_longer(planned: Any) -> None:
    plan = planned(context_tokens=100_000)
    short, long = predict_for(plan, 64), predict_for(plan, 32_768)
    behind = predict_for(plan, 64, history_tokens=32_704)
    assert short is not None
    assert long is not None
    assert behind is not None
    assert (short.prompt_tokens, long.prompt_tokens, behind.prompt_tokens) == (64, 32_768, 64)
    assert long.time_to_first_token_s > 20 * short.time_to_first_token_s
    assert long.seconds_per_token == behind.seconds_per_token > short.seconds_per_token
    assert behind.time_to_first_token_s < 0.1 * long.time_to_first_token_s


def test_the_plans_correction_holds_for_every_prompt(planned: Any) -> None:
    plan = planned()
    before = predict_for(plan, 2000)
    plan = replace(plan, speed=corrected(plan.speed, Correction(2.0, 3.0, 4.0, 5)))
    after = predict_for(plan, 2000)
    assert before is not None
    assert after is not None
    assert after.seconds_per_token == pytest.approx(2 * before.seconds_per_token)
    assert after.time_to_first_token_s == pytest.approx(3 * before.time_to_first_token_s)
    assert after.load_s == pytest.approx(4 * before.load_s)


def test_a_plan_without_a_prediction_has_no_answer(planned: Any) -> None:
    assert predict_for(replace(planned(), speed=None), 64) is None


@pytest.mark.parametrize(("prompt", "history"), [(0, 0), (-1, 0), (1, -1)])
def test_impossible_lengths_are_refused(prompt: int, history: int, planned: Any) -> None:
    with pytest.raises(ConfigError):
        predict_for(planned(), prompt, history)


def test_a_plan_for_a_model_that_is_not_here_predicts_no_load(
    planned: Any, large_model: ResolvedModel
) -> None:
    assert planned().speed.load_s > 0
    absent = planned(replace(large_model, model_path=None))
    assert absent.speed.load == ()
    assert predict_for(absent, 64).load_s is None


def test_a_load_of_files_that_the_page_cache_holds_is_sooner_done(planned: Any) -> None:
    plan = planned()
    cold, warm = predict_for(plan, 64), predict_for(plan, 64, files_cached=True)
    assert cold is not None
    assert warm is not None
    assert warm.load_s < 0.2 * cold.load_s
    assert warm.seconds_per_token == cold.seconds_per_token
