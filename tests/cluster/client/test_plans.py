"""A node's plan as its client sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollm_widgets.cluster.client import plans
from ollm_widgets.cluster.client.wanting import on_node
from ollm_widgets.cluster.messages import Offer
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.runtime.loader import RuntimeLoader

WHY = "It has the most room."


@pytest.fixture
def config(saved_llama: Path) -> RuntimeConfig:
    return RuntimeConfig(str(saved_llama), device="ray:cpu")


@pytest.fixture
def there(config: RuntimeConfig) -> RuntimePlan:
    return RuntimeLoader().plan(on_node(config))


def test_it_says_where_and_why_and_keeps_what_was_asked_for(
    config: RuntimeConfig, there: RuntimePlan
) -> None:
    plan = plans.offered(Offer(there, runs=True, fits=True), config, "node-b", WHY)
    assert (plan.node, plan.node_reason, plan.config) == ("node-b", WHY, config)
    assert plan.is_executable()
    assert plan.memory == there.memory
    assert plan.placement == there.placement
    assert plan.model_path is None
    assert "node-b" in plan.to_text()


def test_files_that_a_node_lacks_are_brought_by_it(
    config: RuntimeConfig, there: RuntimePlan
) -> None:
    missing = there.refine(executable=False, needs_files=True, reason="Its files are missing.")
    plan = plans.offered(Offer(missing, runs=True, fits=True), config, "node-b", WHY)
    assert plan.is_executable()
    assert not plan.needs_files
    assert plan.reason == WHY
    assert any("brings the model's files" in detail for detail in plan.details)


def test_what_runs_nowhere_says_why(config: RuntimeConfig, there: RuntimePlan) -> None:
    offer = Offer(there, runs=False, fits=False, refusal="It needs 40 GiB of 8 GiB.")
    plan = plans.offered(offer, config, "node-b", WHY)
    assert not plan.is_executable()
    assert plan.reason == "It needs 40 GiB of 8 GiB."


def test_where_nothing_is_known_there_are_no_figures(
    config: RuntimeConfig, there: RuntimePlan
) -> None:
    plan = plans.unknown(there, config, "No host is there yet.", runs=True)
    assert plan.is_executable()
    assert plan.node == plans.NODE_TO_COME
    assert plan.speed is None
    assert plan.memory.tiers == ()
    assert plan.placement.tiers == ()
    assert "No host is there yet." in plan.to_text()
    refused = plans.unknown(there, config, "It cannot be reached.", runs=False)
    assert not refused.is_executable()
    assert refused.reason == "It cannot be reached."


def test_a_model_that_is_not_known_does_not_run_anywhere(config: RuntimeConfig) -> None:
    unknown = config.copy(model_reference="no-such-model")
    base = RuntimeLoader().plan(on_node(unknown))
    plan = plans.unknown(base, unknown, "No host is there yet.", runs=True)
    assert not plan.is_executable()
    assert "no-such-model" in plan.reason
