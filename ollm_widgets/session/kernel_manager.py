"""The manager that everything in a kernel shares, and the cluster for what asks for one."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

from ollm_widgets.runtime.residency.manager import RuntimeManager
from ollm_widgets.session.kernel_loader import KernelLoader
from ollm_widgets.settings import cluster_setting

if TYPE_CHECKING:
    from ollm_widgets.cluster.cluster import Cluster
    from ollm_widgets.runtime.residency.elsewhere import Loader

LOCAL = "local"


class KernelCluster:
    """The cluster for configs of the device ``ray``; it is joined when the first of them comes.

    Parameters
    ----------
    setting
        ``auto``, ``host:port``, or ``local`` for a Ray of this machine alone, which is also what
        applies where nobody says; see `settings.cluster_setting`.
    """

    def __init__(self, setting: str = "") -> None:
        self.setting = setting
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None

    @property
    def is_chosen(self) -> bool:
        """Whether somebody has said which cluster; else nobody may want any."""
        return bool(self.setting)

    @property
    def cluster(self) -> Cluster:
        """The cluster itself; to make it joins nothing yet."""
        return self._made()

    def over(self, loader: Loader) -> Loader:
        """Return what loads there what asks for it; ``auto`` stays on this machine."""
        return KernelLoader(loader, lambda: self._made().over(loader))

    def leave(self) -> None:
        """Give up what this kernel claims there; the models stay in memory there."""
        with self._lock:
            cluster = self._cluster
        if cluster is not None:
            cluster.leave()

    def _made(self) -> Cluster:
        from ollm_widgets.cluster.cluster import Cluster

        with self._lock:
            if self._cluster is None:
                self._cluster = Cluster(None if self.setting in ("", LOCAL) else self.setting)
            return self._cluster


def offers_cluster(manager: RuntimeManager) -> bool:
    """Whether somebody has given a manager a cluster, or said which one it may use."""
    cluster = manager.cluster
    return cluster.is_chosen if isinstance(cluster, KernelCluster) else cluster is not None


@functools.cache
def default_manager() -> RuntimeManager:
    """The manager that the widgets, the magics and a plain script share."""
    return RuntimeManager(cluster=KernelCluster(cluster_setting()))
