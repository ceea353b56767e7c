"""Plans for a cluster say where a model goes and why, and load nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ollm_widgets.cluster.client.plans import NODE_TO_COME
from ollm_widgets.cluster.cluster import Cluster
from ollm_widgets.errors import ConfigError, PlanNotExecutableError
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.runtime.loader import RuntimeLoader

if TYPE_CHECKING:
    from ollm_widgets.runtime.residency.elsewhere import Loader
    from tests.cluster.on_ray.real_ray import Hosts, RealRay

pytest.importorskip("ray")

from tests.cluster.on_ray.real_ray import NODES, until


def config_of(folder: Path) -> RuntimeConfig:
    return RuntimeConfig(str(folder), device="ray", dtype="float32")


@pytest.fixture
def cluster(three_nodes: Hosts, ray_nodes: RealRay) -> Iterator[Cluster]:
    cluster = Cluster(ray_nodes.address)
    cluster.connect()
    yield cluster
    cluster.leave()


@pytest.fixture
def loader(cluster: Cluster) -> Loader:
    return cluster.over(RuntimeLoader())


@pytest.mark.smoke
def test_a_plan_names_a_node_and_why_and_loads_nothing(
    three_nodes: Hosts, loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    config = config_of(tiny_models[1])
    plan = loader.plan(config)
    assert plan.is_executable()
    assert plan.node in NODES
    assert plan.node_reason
    assert plan.memory.tiers
    assert plan.config == config
    view = three_nodes.view()
    assert not any(host.held or host.loading for host in view.hosts)
    assert view.reservations == 0


def test_a_plan_that_is_asked_for_again_and_again_is_asked_of_the_hosts_once(
    loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    config = config_of(tiny_models[1])
    plan = loader.plan(config)
    assert loader.plan(config) is plan
    assert loader.plan(config.copy()) is plan
    assert loader.plan(config.copy(context_tokens=64)) is not plan


def test_what_is_in_memory_is_planned_where_it_is(
    loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    before = loader.plan(config_of(tiny_models[0]))
    runtime = loader.load(config_of(tiny_models[0]))
    after = loader.plan(config_of(tiny_models[0]))
    assert after is not before
    assert after.node == runtime.plan.node
    assert after.placement == runtime.plan.placement
    runtime.close()


def test_what_no_node_can_run_says_what_each_of_them_says(
    loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    config = config_of(tiny_models[0]).copy(device="ray:cuda")
    plan = loader.plan(config)
    if plan.is_executable():
        pytest.skip("the nodes of this machine have a GPU")
    assert "No node can run tiny-a: " in plan.reason
    assert all(node in plan.reason for node in NODES)
    with pytest.raises(PlanNotExecutableError, match=NODES[0]):
        loader.load(config)


def test_a_config_that_cannot_work_is_refused_here(
    loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    config = config_of(tiny_models[0]).copy(context_tokens=0)
    for ask in (loader.plan, loader.load):
        with pytest.raises(ConfigError, match="context_tokens"):
            ask(config)


def test_where_nobody_has_started_hosts_the_first_load_will(
    ray_nodes: RealRay, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    cluster = Cluster(ray_nodes.address, name="others")
    loader = cluster.over(RuntimeLoader())
    plans: list[RuntimePlan] = []

    def known() -> bool:
        plans.append(loader.plan(config_of(tiny_models[0])))
        return "being connected" not in plans[-1].reason

    until(known)
    assert plans[-1].is_executable()
    assert plans[-1].node == NODE_TO_COME
    assert "the first load starts them" in plans[-1].reason
    cluster.leave()
