from __future__ import annotations

import json
from typing import Any


def test_a_plan_is_plain_data_for_json(plan: Any) -> None:
    document = json.loads(json.dumps(plan().as_dict(), allow_nan=False))
    assert document["backend_id"] == "transformers-generic"
    assert document["placement"]["tiers"] == ["host"] * 30
    assert document["memory"]["tiers"][0]["place"] == "ram"
    assert document["resolved_model"]["reference"] == "smollm2-135m"


def test_a_plan_gives_the_code_of_its_config(plan: Any) -> None:
    made = plan(kv_cache_window_tokens=128)
    namespace: dict[str, Any] = {}
    exec(made.to_code(), namespace)
    assert namespace["config"] == made.config


def test_a_plan_can_be_refined_and_stays_as_it_was(plan: Any) -> None:
    made = plan()
    refined = made.refine(specialization_state="fallback", fallback_reason="It broke.")
    assert made.specialization_state == "not-planned"
    assert refined.fallback_reason == "It broke."
    assert "It broke." in refined.to_text()


def test_the_card_shows_verdict_memory_and_speed(plan: Any) -> None:
    card = plan().card()
    assert (card.badge, card.tone) == ("runs", "ok")
    assert card.subtitle == "Runs with transformers-generic on cpu"
    assert {"Reason", "Backend", "RAM", "KV cache", "Speed"} <= {row.term for row in card.rows}
    assert plan(device="cuda").card().badge == "does not run"
