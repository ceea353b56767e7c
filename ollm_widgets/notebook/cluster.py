"""``%ollm cluster``: the nodes, what they hold, and what they do."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError
from ollm_widgets.notebook.progress import ProgressLine
from ollm_widgets.session.kernel_manager import KernelCluster

if TYPE_CHECKING:
    from ollm_widgets.cluster.cluster import Cluster
    from ollm_widgets.runtime.residency.manager import RuntimeManager


def join(manager: RuntimeManager) -> Cluster | None:
    """Join the cluster of a manager, which is then shown as it is; None after an interrupt.

    Raises
    ------
    ConfigError
        If the manager has none.
    ClusterUnavailableError
        If Ray is not installed, or there is no such cluster.
    """
    cluster = _cluster_of(manager)
    cancel = threading.Event()
    with ProgressLine("The cluster") as line:
        try:
            cluster.connect(line.show, cancel)
        except KeyboardInterrupt:
            cancel.set()
            line.end("was not joined")
            return None
    return cluster


def _cluster_of(manager: RuntimeManager) -> Cluster:
    from ollm_widgets.cluster.cluster import Cluster

    cluster = manager.cluster
    if isinstance(cluster, KernelCluster):
        return cluster.cluster
    if isinstance(cluster, Cluster):
        return cluster
    raise ConfigError(
        "%ollm cluster",
        "no cluster is used here.",
        hint="%ollm config cluster=auto uses the one that this machine belongs to.",
    )
