from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import ConfigError, RuntimeConfig, RuntimeLoader, RuntimeManager, default_manager
from ollm_widgets.session.kernel_loader import KernelLoader
from ollm_widgets.session.kernel_manager import KernelCluster, offers_cluster
from ollm_widgets.settings import cluster_setting
from tests.session.one_node import NODE, LoaderOfANode, OneNode

LOADS_HERE = """
import sys
from ollm_widgets import RuntimeConfig, default_manager
manager = default_manager()
manager.plan(RuntimeConfig("smollm2-135m", device="cpu"))
others = [name for name in sys.modules if name.startswith(("ray.", "ollm_widgets.cluster"))]
print(type(manager.cluster).__name__, *others)
"""


def test_what_runs_on_this_machine_brings_nothing_of_a_cluster() -> None:
    done = subprocess.run(
        (sys.executable, "-c", LOADS_HERE),
        env=os.environ | {"OLLM_CLUSTER": "auto"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["KernelCluster"]


def test_a_kernel_has_one_manager() -> None:
    assert default_manager() is default_manager()
    assert isinstance(default_manager().cluster, KernelCluster)


def test_a_cluster_is_offered_where_somebody_has_chosen_one() -> None:
    assert not offers_cluster(RuntimeManager())
    assert not offers_cluster(RuntimeManager(cluster=KernelCluster()))
    assert offers_cluster(RuntimeManager(cluster=KernelCluster("local")))
    assert offers_cluster(RuntimeManager(cluster=OneNode()))


def test_only_what_asks_for_it_goes_to_the_cluster(saved_llama: Path) -> None:
    here, made = RuntimeLoader(), []

    def there() -> LoaderOfANode:
        made.append(LoaderOfANode(here, OneNode()))
        return made[-1]

    loader = KernelLoader(here, there)
    reference = f"path:{saved_llama}"
    assert not loader.plan(RuntimeConfig(reference)).node
    assert not made
    for device in ("ray", "ray:cpu"):
        plan = loader.plan(RuntimeConfig(reference, device=device))
        assert plan.node == NODE
        assert loader.plan_with(plan.config, {"ram": 1}).node == NODE
    assert len(made) == 1
    assert loader.resolve(reference).model_path == saved_llama
    assert loader.backends is here.backends


@given(
    st.from_regex(r"[a-z0-9.-]{1,20}:[0-9]{1,5}", fullmatch=True)
    | st.sampled_from(["auto", "LOCAL", " auto "])
)
def test_what_names_a_cluster_is_understood(text: str) -> None:
    setting = cluster_setting(text)
    assert setting
    assert cluster_setting(setting) == setting


@pytest.mark.parametrize(
    "text", ["ray", "ray://host:1", "host", "host:port", "a b:1", "host:123456"]
)
def test_what_names_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cluster: .* names no Ray cluster"):
        cluster_setting(text)
    monkeypatch.setenv("OLLM_CLUSTER", text)
    with pytest.raises(ConfigError, match="OLLM_CLUSTER: "):
        cluster_setting()


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLM_CLUSTER", "  ")
    assert cluster_setting() == ""
