from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollm_widgets.models.kinds import NATIVE_KINDS
from ollm_widgets.models.quantization import EXPANDABLE, Quantization
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.parts import StreamingPlan
from ollm_widgets.planning.passes import (
    NATIVE_PROVIDER_ID,
    PlannedRun,
    native_obstacle,
    native_registry,
    planned_passes,
)
from ollm_widgets.planning.placement import place_layers
from ollm_widgets.planning.specialization import SpecializationMatch, SpecializationRegistry
from ollm_widgets.planning.traits import NATIVE_TRAITS


def matching(resolved: ResolvedModel) -> SpecializationMatch:
    match = native_registry().find(resolved)
    assert match is not None
    assert match.provider_id == NATIVE_PROVIDER_ID
    return match


def test_a_dense_text_model_matches_all_passes_but_those_of_other_models(
    model: ResolvedModel,
) -> None:
    assert matching(model).pass_ids == (
        "full-residency",
        "gpu-offload",
        "cpu-offload",
        "disk-cache",
        "lossless-packing",
        "layer-major-prefill",
        "mlp-chunking",
        "captured-steps",
        "attention-replacement",
    )


def test_experts_and_images_have_their_own_passes(
    model: ResolvedModel, expert_model: ResolvedModel
) -> None:
    assert "moe-routing" in matching(expert_model).pass_ids
    images = replace(model, generic_model_kind="image-text-to-text")
    assert "multimodal-shell" in matching(images).pass_ids


def test_gguf_matches_since_it_is_converted_before_it_is_loaded(model: ResolvedModel) -> None:
    assert model.weights is not None
    weights = replace(model.weights, dtype="Q4_1", layer_bytes=(2_212_560,) * 30)
    gguf = replace(model, weight_format="gguf", weights=weights)
    assert matching(gguf) == matching(model)


def test_a_model_that_is_not_here_matches_by_its_catalog_facts(model: ResolvedModel) -> None:
    absent = replace(model, model_path=None, weights=None, shape=None)
    assert matching(absent) == matching(model)
    unknown = replace(absent, capabilities=replace(absent.capabilities, layers=None))
    assert "once its files are here" in native_obstacle(unknown)


def changed(model: ResolvedModel, **weights: Any) -> ResolvedModel:
    assert model.weights is not None
    return replace(model, weights=replace(model.weights, **weights))


def test_what_does_not_match_is_refused_with_the_reason(model: ResolvedModel) -> None:
    registry = native_registry()
    assert model.shape is not None
    for resolved, reason in (
        (replace(model, generic_model_kind="seq2seq-lm"), "this one is seq2seq-lm"),
        (replace(model, generic_model_kind=None), "of an unknown kind"),
        (replace(model, quantization=Quantization("gptq", 4)), "gptq 4-bit, which needs gptqmodel"),
        (changed(model, layer_parameters=(), layer_bytes=()), "no decoder layers were found"),
        (replace(model, shape=None), "does not say how many decoder layers"),
        (replace(model, shape=replace(model.shape, layers=29)), "hold 30 decoder layers"),
    ):
        assert registry.find(resolved) is None
        assert reason in registry.refusal(resolved)


@pytest.mark.parametrize("method", EXPANDABLE)
def test_what_is_expanded_when_it_is_loaded_matches(model: ResolvedModel, method: str) -> None:
    stored = changed(model, dtype="uint8", layer_bytes=(2_000_000,) * 30)
    for resolved in (stored, replace(model, weights=None, shape=None)):
        assert native_obstacle(replace(resolved, quantization=Quantization(method))) == ""


def test_the_kinds_that_the_native_backend_announces_are_those_that_models_are_judged_by() -> None:
    assert NATIVE_TRAITS.generic_kinds == NATIVE_KINDS


def test_only_experts_that_are_surely_stacked_have_a_pass(expert_model: ResolvedModel) -> None:
    whole = replace(expert_model, model_type="llama4")
    assert "moe-routing" not in matching(whole).pass_ids


@pytest.mark.parametrize(
    ("run", "passes"),
    [
        (
            PlannedRun("cpu", place_layers(4, 0, 4), StreamingPlan()),
            ("full-residency",),
        ),
        (
            PlannedRun("cpu", place_layers(4, 0, 4), StreamingPlan(prefill_chunk_tokens=1024)),
            ("full-residency", "mlp-chunking"),
        ),
        (
            PlannedRun("cpu", place_layers(4, 0, 1), StreamingPlan(2, 100)),
            ("disk-cache",),
        ),
        (
            PlannedRun(
                "cpu", place_layers(4, 0, 1), StreamingPlan(2, 100, prefill_chunk_tokens=1024)
            ),
            ("disk-cache", "layer-major-prefill", "mlp-chunking"),
        ),
        (
            PlannedRun(
                "cuda",
                place_layers(4, 4, 0),
                StreamingPlan(prefill_chunk_tokens=8192, captured_steps=True),
            ),
            (
                "full-residency",
                "layer-major-prefill",
                "mlp-chunking",
                "captured-steps",
                "attention-replacement",
            ),
        ),
        (
            PlannedRun(
                "cuda",
                place_layers(4, 1, 3),
                StreamingPlan(3, 100, packed=True, captured_steps=True, prefill_chunk_tokens=8192),
            ),
            (
                "gpu-offload",
                "cpu-offload",
                "lossless-packing",
                "layer-major-prefill",
                "mlp-chunking",
                "captured-steps",
                "attention-replacement",
            ),
        ),
        (
            PlannedRun("cuda", place_layers(4, 0, 3), StreamingPlan(3, 100, staging_slots=1)),
            ("cpu-offload", "disk-cache"),
        ),
        (
            PlannedRun("cuda", place_layers(4, 0, 0), StreamingPlan(3, 100, staging_slots=4)),
            ("disk-cache",),
        ),
    ],
)
def test_a_plan_lists_exactly_the_passes_that_will_apply(
    model: ResolvedModel, run: PlannedRun, passes: tuple[str, ...]
) -> None:
    assert planned_passes(matching(model), run) == passes


def test_the_passes_of_another_provider_are_not_judged() -> None:
    match = SpecializationMatch("theirs", ("disk-cache", "theirs-alone"))
    run = PlannedRun("cpu", place_layers(4, 0, 4), StreamingPlan())
    assert planned_passes(match, run) == match.pass_ids


def test_a_registry_whose_passes_explain_nothing_says_that_none_matches(
    model: ResolvedModel,
) -> None:
    assert SpecializationRegistry().refusal(model) == "no pass of it matches this model"
