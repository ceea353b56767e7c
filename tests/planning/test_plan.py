from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.plan import Bandwidth, RuntimePlan, SpeedPrediction
from ollm_widgets.planning.speed.predicted import Correction, LoadStage, SpeedPart


def test_a_plan_is_plain_data_for_json(plan: Any) -> None:
    document = json.loads(json.dumps(plan().as_dict(), allow_nan=False))
    assert document["backend_id"] == "optimized-native"
    assert document["placement"]["tiers"] == ["host"] * 30
    assert document["memory"]["tiers"][0]["place"] == "ram"
    assert document["memory"]["tiers"][0]["staging_bytes"] == 0
    assert document["streaming"]["device_slots"] == 0
    assert document["resolved_model"]["reference"] == "smollm2-135m"


def test_every_part_of_a_plan_is_in_its_document(
    plan: Any, large_model: ResolvedModel, server: Machine
) -> None:
    made = plan(large_model, server, offload_gpu_layers=4, cache_dir="kv")
    speed = SpeedPrediction(
        0.1,
        float("inf"),
        512,
        Bandwidth(1e10, 1e11),
        "So it is.",
        load=(LoadStage("Build", 0.3),),
        token_parts=(SpeedPart("the disk", 10, 5.0, 2.0),),
        correction=Correction(token=1.5, observations=2),
    )
    document = made.refine(speed=speed).as_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document.keys() == {item.name for item in fields(RuntimePlan)}
    assert document["speed"]["load"] == [{"stage": "Build", "seconds": 0.3}]
    assert document["speed"]["token_parts"][0]["name"] == "the disk"
    assert document["speed"]["correction"]["token"] == 1.5
    assert document["speed"]["time_to_first_token_s"] is None
    for tier, drawn in zip(made.memory.tiers, document["memory"]["tiers"], strict=True):
        assert drawn == {item.name: getattr(tier, item.name) for item in fields(tier)}
    assert len(document["memory"]["layers"]) == len(made.memory.layers)
    assert RuntimeConfig.from_dict(document["config"]) == made.config


def test_a_plan_gives_the_code_of_its_config(plan: Any) -> None:
    made = plan(kv_cache_window_tokens=128)
    namespace: dict[str, Any] = {}
    exec(made.to_code(), namespace)
    assert namespace["config"] == made.config


def test_a_plan_can_be_refined_and_stays_as_it_was(plan: Any) -> None:
    made = plan()
    refined = made.refine(specialization_state="fallback", fallback_reason="It broke.")
    assert made.specialization_state == "planned"
    assert refined.fallback_reason == "It broke."
    assert "It broke." in refined.to_text()


def test_the_card_shows_verdict_memory_and_speed(plan: Any) -> None:
    card = plan().card()
    assert (card.badge, card.tone) == ("runs", "ok")
    assert card.subtitle == "Runs with optimized-native on cpu"
    assert {"Reason", "Backend", "RAM", "KV cache", "Speed"} <= {row.term for row in card.rows}
    assert plan(device="cuda").card().badge == "does not run"


def test_the_profile_of_a_plan_says_what_the_plan_does(plan: Any, model: ResolvedModel) -> None:
    profile = plan().capabilities
    assert (profile.support_level, profile.supports_specialization) == ("optimized", True)
    assert profile.reason_for("supports_specialization") is None
    unsupported = replace(
        model, capabilities=replace(model.capabilities, support_level="unsupported")
    )
    other_kind = replace(model, generic_model_kind="seq2seq-lm")
    for made, reason in (
        (plan(use_specialization=False), "use_specialization=False"),
        (plan(backend="transformers-generic"), "transformers-generic was asked for"),
        (plan(adapter_dir="adapter"), "optimized-native was not chosen: adapter_dir"),
        (plan(unsupported), "No backend runs it."),
        (plan(other_kind, backend="optimized-native"), "this one is seq2seq-lm"),
        (plan().refine(fallback_reason="It broke.", specialization_pass_ids=()), "It broke."),
    ):
        assert not made.capabilities.supports_specialization
        assert reason in made.capabilities.reason_for("supports_specialization")
