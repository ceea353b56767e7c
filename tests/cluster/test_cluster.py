"""A cluster in hand: nothing happens before it is used, and what goes wrong is said."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets.cluster.client.plans import THIS_MACHINE
from ollm_widgets.cluster.cluster import Cluster
from ollm_widgets.errors import ClusterUnavailableError
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.runtime.loader import RuntimeLoader


@pytest.fixture
def config(saved_llama: Path) -> RuntimeConfig:
    return RuntimeConfig(str(saved_llama), device="ray")


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def run(code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_neither_ray_nor_torch_is_imported_before_it_is_used() -> None:
    said = run(
        """
        import sys
        from ollm_widgets.cluster.cluster import Cluster
        cluster = Cluster("auto", hosts=(0, 4), copies={"smollm2-135m": 2})
        cluster.to_html(), repr(cluster), cluster.view(), cluster.leave()
        print(sorted({"ray", "torch", "transformers"} & set(sys.modules)))
        """
    )
    assert said == "[]"


def test_without_ray_it_says_how_to_get_it(saved_llama: Path) -> None:
    said = run(
        """
        import sys
        sys.modules["ray"] = None
        from ollm_widgets.cluster.cluster import Cluster
        from ollm_widgets.errors import ClusterUnavailableError
        from ollm_widgets.planning.config import RuntimeConfig
        from ollm_widgets.runtime.loader import RuntimeLoader
        loader = Cluster().over(RuntimeLoader())
        config = RuntimeConfig(sys.argv[1], device="ray")
        plan = loader.plan(config)
        print(plan.is_executable(), plan.reason)
        try:
            loader.load(config)
        except ClusterUnavailableError as error:
            print(error)
        """,
        str(saved_llama),
    )
    planned, loaded = said.splitlines()
    assert planned.startswith("False ")
    assert all("pip install 'ollm-widgets[cluster]'" in line for line in (planned, loaded))


def test_before_ray_is_started_here_a_plan_is_that_of_this_machine(config: RuntimeConfig) -> None:
    cluster = Cluster()
    here = RuntimeLoader()
    plan = cluster.over(here).plan(config)
    own = here.plan(config.copy(device="auto"))
    assert plan.is_executable()
    assert plan.node == THIS_MACHINE
    assert "starts" in plan.node_reason
    assert (plan.placement, plan.kv, plan.config) == (own.placement, own.kv, config)
    assert not cluster.connected


def test_a_cluster_that_is_not_there_gives_a_plan_that_says_so_soon(
    config: RuntimeConfig, nobody: str
) -> None:
    pytest.importorskip("ray")
    loader = Cluster(nobody).over(RuntimeLoader())
    began = time.monotonic()
    while (plan := loader.plan(config)).is_executable():
        # It is being connected; asked again, it knows.
        assert time.monotonic() - began < 60
        time.sleep(0.1)
    assert plan.node
    assert f"cannot be reached: nothing listens at {nobody}." in plan.reason
    with pytest.raises(ClusterUnavailableError, match="cannot be reached"):
        loader.load(config)


def test_what_is_not_for_the_cluster_stays_here(config: RuntimeConfig, nobody: str) -> None:
    here = RuntimeLoader()
    for_ray_only = Cluster(nobody).over(here, auto=False)
    assert for_ray_only.plan(config.copy(device="auto")).node == ""
    everything = Cluster().over(here)
    assert everything.plan(config.copy(device="cpu")).node == ""
    assert everything.plan(config.copy(device="auto")).node == THIS_MACHINE


def test_a_config_is_written_the_same_for_the_cluster_and_its_plan(config: RuntimeConfig) -> None:
    loader = Cluster().over(RuntimeLoader())
    plan = loader.plan(config)
    assert loader.plan_with(config, {"ram": 2**30}) == plan
    assert loader.other_plans(plan) == ()
    assert loader.advice(plan) is None
    assert THIS_MACHINE in loader.explain(plan)


def test_before_it_is_connected_it_says_so() -> None:
    cluster = Cluster()
    assert repr(cluster) == "<Cluster of this machine: not connected>"
    assert "Not connected" in cluster.to_text()
    assert cluster.view().hosts == ()
    cluster.close()
