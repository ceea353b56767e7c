from __future__ import annotations

import pytest

from ollm_widgets import Cluster, ConfigError, RuntimeManager
from ollm_widgets.notebook.cluster import join
from ollm_widgets.session.kernel_manager import KernelCluster
from tests.session.one_node import OneNode


@pytest.mark.parametrize("manager", [RuntimeManager(), RuntimeManager(cluster=OneNode())])
def test_without_a_cluster_to_show_it_is_said_how_to_have_one(manager: RuntimeManager) -> None:
    with pytest.raises(ConfigError, match="%ollm config cluster=auto"):
        join(manager)


@pytest.mark.parametrize(
    ("setting", "address"), [("", None), ("local", None), ("auto", "auto"), ("a:6379", "a:6379")]
)
def test_what_was_chosen_is_what_is_joined(setting: str, address: str | None) -> None:
    cluster = KernelCluster(setting).cluster
    assert isinstance(cluster, Cluster)
    assert cluster.options.address == address
    assert not cluster.connected
