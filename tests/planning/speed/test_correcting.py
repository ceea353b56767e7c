from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.speed.alike import PlanShape, shape_of
from ollm_widgets.planning.speed.correcting import (
    LARGEST_FACTOR,
    LEAST_FACTOR,
    calculated,
    corrected,
    corrected_plan,
    correction_for,
    correction_words,
)
from ollm_widgets.planning.speed.observed import Measure, Observation, ObservationStore
from ollm_widgets.planning.speed.predicted import (
    Correction,
    LoadStage,
    SpeedPart,
    SpeedPrediction,
)

SHAPE = PlanShape("key", "layers in place")
PREDICTION = SpeedPrediction(
    seconds_per_token=0.5,
    time_to_first_token_s=2.0,
    prompt_tokens=512,
    bandwidth=Bandwidth(1e10, 1e12),
    why="Because.",
    load=(LoadStage("Build", 1.0), LoadStage("Read weights", 3.0)),
    token_parts=(SpeedPart("memory", 10, 20.0, 0.5), SpeedPart("disk", 1, 10.0, 0.1)),
    first_token_parts=(SpeedPart("arithmetic", 0, 0.0, 2.0),),
)
SELECTOR = BackendSelector(measure=lambda device: PREDICTION.bandwidth)
FACTORS = st.floats(LEAST_FACTOR, LARGEST_FACTOR)
CORRECTIONS = st.builds(Correction, FACTORS, FACTORS, FACTORS, st.integers(1, 20))


@pytest.fixture
def store(tmp_path: Path) -> ObservationStore:
    return ObservationStore(tmp_path / "observed.sqlite")


def record(
    store: ObservationStore, *ratios: float, shape: PlanShape = SHAPE, what: Measure = "token"
) -> None:
    for ratio in ratios:
        store.record(shape, [Observation(what, 1.0, ratio)])


# ---------------------------------------------------------------------- the factors


def test_nothing_is_corrected_before_there_are_two_answers(store: ObservationStore) -> None:
    assert correction_for(SHAPE, None) == Correction()
    assert correction_for(SHAPE, store) == Correction()
    record(store, 2.0)
    assert correction_for(SHAPE, store) == Correction()
    record(store, 2.0)
    assert correction_for(SHAPE, store) == Correction(token=2.0, observations=2)


def test_each_figure_has_a_factor_of_its_own(store: ObservationStore) -> None:
    record(store, 2.0, 2.0, 2.0)
    record(store, 0.5, 0.5, what="first-token")
    record(store, 3.0, 3.0, what="load")
    assert correction_for(SHAPE, store) == Correction(2.0, 0.5, 3.0, 3)


def test_one_answer_that_was_disturbed_changes_nothing(store: ObservationStore) -> None:
    record(store, 1.1, 1.1, 400.0, 1.1, 1.1)
    assert correction_for(SHAPE, store).token == 1.1


@pytest.mark.parametrize(("ratio", "factor"), [(40.0, LARGEST_FACTOR), (0.001, LEAST_FACTOR)])
def test_a_factor_stays_within_bounds(store: ObservationStore, ratio: float, factor: float) -> None:
    record(store, ratio, ratio, ratio)
    assert correction_for(SHAPE, store).token == factor


def test_a_shape_that_was_never_seen_learns_from_three_of_its_regime(
    store: ObservationStore,
) -> None:
    for key, ratio in (("a", 1.2), ("b", 1.4)):
        record(store, ratio, ratio, shape=PlanShape(key, SHAPE.regime))
    record(store, 4.0, 4.0, shape=PlanShape("c", "layers from disk"))
    record(store, 4.0, shape=PlanShape("d", SHAPE.regime))
    assert correction_for(SHAPE, store) == Correction()
    record(store, 3.0, 3.0, shape=PlanShape("e", SHAPE.regime))
    assert correction_for(SHAPE, store) == Correction(token=1.4, observations=6)


def test_what_was_seen_of_a_shape_itself_counts_before_its_regime(store: ObservationStore) -> None:
    for key in "abc":
        record(store, 3.0, 3.0, shape=PlanShape(key, SHAPE.regime))
    record(store, 0.9, 0.9)
    assert correction_for(SHAPE, store).token == 0.9


# ---------------------------------------------------------------------- predictions


def test_a_correction_multiplies_what_it_is_of() -> None:
    after = corrected(PREDICTION, Correction(2.0, 0.5, 3.0, 7))
    assert after.seconds_per_token == 1.0
    assert after.tokens_per_s == 1.0
    assert after.time_to_first_token_s == 1.0
    assert after.load_s == 12.0
    assert [part.seconds for part in after.token_parts] == [1.0, 0.2]
    assert after.first_token_parts[0].seconds == 1.0
    assert after.bound_by == PREDICTION.bound_by
    assert after.correction.observations == 7
    assert (after.why, after.bandwidth) == (PREDICTION.why, PREDICTION.bandwidth)


@given(CORRECTIONS, CORRECTIONS)
def test_a_later_correction_takes_the_place_of_an_earlier_one(
    first: Correction, second: Correction
) -> None:
    after = corrected(corrected(PREDICTION, first), second)
    once = corrected(PREDICTION, second)
    assert after.seconds_per_token == pytest.approx(once.seconds_per_token)
    assert after.time_to_first_token_s == pytest.approx(once.time_to_first_token_s)
    assert after.load_s == pytest.approx(once.load_s)
    assert after.correction == second
    back = calculated(after)
    assert back.seconds_per_token == pytest.approx(PREDICTION.seconds_per_token)
    assert back.correction == Correction()


def test_the_words_name_what_was_corrected() -> None:
    assert correction_words(Correction()) == ""
    assert correction_words(Correction(1.0, 1.002, 1.0, 5)) == ""
    said = correction_words(Correction(1.34, 1.0, 0.8, 12))
    assert said == (
        "12 earlier runs on this machine took 1.3 times the calculated time for a token, "
        "0.8 times the calculated time for loading."
    )


# ---------------------------------------------------------------------- plans


@pytest.fixture
def plan(model: ResolvedModel, laptop: Machine) -> RuntimePlan:
    return SELECTOR.select(model, RuntimeConfig("smollm2-135m"), laptop)


def test_a_plan_is_corrected_by_its_own_shape(plan: RuntimePlan, store: ObservationStore) -> None:
    shape = shape_of(plan)
    record(store, 2.0, 2.0, shape=shape)
    assert plan.speed is not None
    after = corrected_plan(plan, lambda plan: correction_for(shape_of(plan), store))
    assert after.speed is not None
    assert after.speed.seconds_per_token == pytest.approx(2 * plan.speed.seconds_per_token)
    assert after.refine(speed=None) == plan.refine(speed=None)
    again = corrected_plan(after, lambda plan: correction_for(shape_of(plan), store))
    assert again == after


def test_a_plan_without_a_prediction_stays_without(plan: RuntimePlan) -> None:
    without = plan.refine(speed=None)
    assert corrected_plan(without, lambda plan: Correction(2.0)) is without


def test_plans_are_alike_whatever_their_model_is_called(
    plan: RuntimePlan, model: ResolvedModel, laptop: Machine
) -> None:
    other = replace(model, normalized_name="other", repo_id="someone/other")
    config = RuntimeConfig("smollm2-135m", context_tokens=1024)
    assert shape_of(SELECTOR.select(other, config, laptop)) == shape_of(plan)


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "bfloat16"},
        {"backend": "transformers-generic"},
        {"offload_cpu_layers": 20},
        {"kv_cache_strategy": "sliding-window-ring-buffer", "kv_cache_window_tokens": 64},
        {"use_cache": False},
    ],
    ids=str,
)
def test_plans_that_run_otherwise_are_not_alike(
    plan: RuntimePlan, model: ResolvedModel, laptop: Machine, settings: dict[str, object]
) -> None:
    other = SELECTOR.select(model, RuntimeConfig("smollm2-135m", **settings), laptop)
    assert other.is_executable(), other.reason
    assert shape_of(other).key != shape_of(plan).key


def test_a_regime_is_where_layers_come_from_on_which_machine(
    model: ResolvedModel, make_machine: Callable[..., Machine]
) -> None:
    gpu = make_machine(gpu_gib=(24,))

    def regime(machine: Machine, **settings: object) -> str:
        config = RuntimeConfig("smollm2-135m", **settings)
        return shape_of(SELECTOR.select(model, config, machine)).regime

    resident = regime(gpu, offload_gpu_layers=30)
    streamed = regime(gpu, offload_gpu_layers=10, offload_cpu_layers=20)
    from_disk = regime(gpu, offload_gpu_layers=10, offload_cpu_layers=10)
    on_cpu = regime(make_machine())
    assert resident.startswith("layers in place, captured")
    assert streamed.startswith("layers from RAM")
    assert from_disk.startswith("layers from disk")
    assert on_cpu.startswith("layers in place, not captured")
    assert "Test GPU" in resident
    assert regime(gpu, offload_gpu_layers=5, offload_cpu_layers=25) == streamed
    assert len({resident, streamed, from_disk, on_cpu}) == 4
