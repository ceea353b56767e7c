"""What a plan for a node of a cluster says, and what is not said of this machine by mistake."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.advice import best_change, replanning
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.memory import disk_tier
from ollm_widgets.planning.memory_map import MemoryMap
from ollm_widgets.planning.parts import LayerPlacement
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.verdict import verdict_of

WHY = "It holds the model already, and has 2 requests in flight."


def on_node(plan: RuntimePlan, device: str = "ray") -> RuntimePlan:
    config = plan.config.copy(device=device)
    return plan.refine(config=config, node="10.0.0.2", node_reason=WHY, model_path=None)


def rows(plan: RuntimePlan) -> dict[str, str]:
    return {row.term: row.text for row in plan.card().rows}


@pytest.mark.parametrize("device", ["ray", "ray:cuda", "ray:cpu"])
def test_a_config_may_ask_for_a_node(device: str) -> None:
    RuntimeConfig("m", device=device).validate()


@pytest.mark.parametrize("device", ["ray:", "ray:mps", "ray:0", "ray://host", "rays"])
def test_what_is_no_node_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="ray for a cluster"):
        RuntimeConfig("m", device=device).validate()


def test_the_card_says_on_which_node_and_why(plan: Any) -> None:
    made = on_node(plan())
    assert rows(made)["Node"] == f"10.0.0.2: {WHY}"
    assert made.headline().endswith("on cpu of 10.0.0.2")
    assert "Node" not in rows(plan())


def test_a_reason_that_names_the_node_says_it_once(plan: Any) -> None:
    why = "Node 10.0.0.2 has room for it."
    made = on_node(plan()).refine(node_reason=why)
    assert rows(made)["Node"] == why
    assert made.explain().count("10.0.0.2") == 1


def test_of_a_node_that_is_not_known_yet_no_figure_is_said(plan: Any) -> None:
    here = plan()
    made = on_node(here).refine(
        node="a node to come", placement=LayerPlacement(), memory=MemoryMap(), speed=None
    )
    assert made.headline() == "Runs on a node to come"
    changes = {each.field: each.after for each in made.diff(here).rows}
    assert changes["RAM"] == changes["Layers"] == "not known"


def test_the_story_says_it_and_nothing_of_this_machine(plan: Any) -> None:
    story = on_node(plan()).explain()
    assert f"The node of the cluster is 10.0.0.2. {WHY}" in story
    assert "That node has no accelerator" in story
    assert "This machine" not in story


def test_a_node_that_would_be_asked_for_is_said_as_such(plan: Any) -> None:
    made = on_node(plan(device="cuda:7"), "ray:cuda")
    assert not made.executable
    assert "The device ray:cuda was asked for." in on_node(plan(), "ray:cuda").explain()
    missing = on_node(plan()).refine(executable=False, needs_files=True)
    assert missing.headline() == "Not on 10.0.0.2 yet"
    assert "The node of the cluster would be 10.0.0.2." in missing.explain()


def test_a_change_of_the_node_is_a_difference_with_its_reason(plan: Any) -> None:
    here = plan()
    there = on_node(here, "auto")
    (row,) = [each for each in there.diff(here).rows if each.field == "Node"]
    assert (row.before, row.after, row.why) == ("this machine", "10.0.0.2", WHY)
    other = there.refine(node="10.0.0.3", node_reason="")
    assert [each.after for each in other.diff(there).rows] == ["10.0.0.3"]


def test_the_document_of_a_plan_has_its_node(plan: Any) -> None:
    document = json.loads(json.dumps(on_node(plan()).as_dict(), allow_nan=False))
    assert (document["node"], document["node_reason"]) == ("10.0.0.2", WHY)


def test_nothing_is_advised_from_the_memory_of_this_machine(
    selector: BackendSelector, large_model: ResolvedModel, laptop: Machine
) -> None:
    replan = replanning(selector, large_model, laptop)
    config = RuntimeConfig("m", offload_cpu_layers=0)
    made = selector.select(large_model, config, laptop)
    assert best_change(made, replan) is not None
    assert best_change(on_node(made), replan) is None


def test_the_disk_of_this_machine_stands_against_no_node(
    plan: Any, model: ResolvedModel, tmp_path: Any
) -> None:
    size_bytes = disk_tier(tmp_path).free_bytes * 2
    capabilities = replace(model.capabilities, bytes_on_disk=size_bytes)
    huge = plan(replace(model, model_path=None, capabilities=capabilities))
    assert verdict_of(huge).kind == "too-large"
    assert verdict_of(on_node(huge)).runs


def test_without_a_cluster_the_plan_says_that_there_is_none(plan: Any) -> None:
    made = plan(device="ray")
    assert not made.executable
    assert made.reason.startswith("ray was asked for, but no cluster is at hand here.")
    assert "not on ray" not in made.explain()
