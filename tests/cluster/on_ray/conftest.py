"""A real Ray cluster of three nodes with hosts on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cluster.on_ray.real_ray import Client, Hosts, RealRay


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("ray")


@pytest.fixture(scope="session")
def ray_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRay]:
    """Three nodes on loopback, started once for the whole run."""
    from tests.cluster.on_ray.real_ray import running_ray

    with running_ray(tmp_path_factory.mktemp("cluster-cache")) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def deployed(ray_nodes: RealRay) -> Hosts:
    """One host a node, with room for two models each."""
    from ollm_widgets.cluster.options import ClusterOptions
    from tests.cluster.on_ray.real_ray import NODES, deploy

    options = ClusterOptions(address=ray_nodes.address, residency={"max_loaded": 2})
    return deploy(options, len(NODES))


@pytest.fixture
def three_nodes(deployed: Hosts) -> Iterator[Hosts]:
    """The hosts of three nodes, with nothing in memory; they are left so."""
    from tests.cluster.on_ray.real_ray import NODES

    deployed.settle(len(NODES))
    yield deployed
    deployed.empty()


@pytest.fixture
def client(three_nodes: Hosts) -> Iterator[Client]:
    """A client of these hosts."""
    from tests.cluster.on_ray.real_ray import Client

    client = Client(three_nodes)
    yield client
    client.leave()
