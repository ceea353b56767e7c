"""A cluster of hosts, as a person has it in hand."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.client.calls import Calls
from ollm_widgets.cluster.client.connection import Connection
from ollm_widgets.cluster.client.errand import Errands
from ollm_widgets.cluster.client.loader import ClusterLoader
from ollm_widgets.cluster.messages import ClusterView
from ollm_widgets.cluster.options import ClusterOptions
from ollm_widgets.cluster.view_table import view_table
from ollm_widgets.render.tabular import Tabular

if TYPE_CHECKING:
    from ollm_widgets.backends.base import ProgressSink
    from ollm_widgets.render.table import Table
    from ollm_widgets.runtime.residency.elsewhere import Loader


class Cluster(Tabular):
    """Runs models on the nodes of a Ray cluster, through Ray Serve.

    Give it to a manager, ``RuntimeManager(cluster=Cluster("auto"))``, and what is acquired there
    runs on the cluster. Nothing happens before it is used, and Ray is not imported.

    Parameters
    ----------
    address
        ``auto`` or ``host:port`` of a Ray cluster of which this machine is a node; None starts a
        Ray on loopback, which ends with this process. Hosts of a cluster stay when the notebook
        goes, with their models in memory; a notebook that is started again finds them.
    name, hosts, hosts_per_node, gpus_per_host, residency, copies, busy_wait_s
        See `ClusterOptions`.

    Raises
    ------
    ConfigError
        For a value that cannot work.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        name: str = "ollm",
        hosts: int | tuple[int, int] | None = None,
        hosts_per_node: int = 1,
        gpus_per_host: float | None = None,
        residency: Mapping[str, Any] | None = None,
        copies: Mapping[str, int] | None = None,
        busy_wait_s: float = 60.0,
    ) -> None:
        self.options = ClusterOptions(
            address=address,
            name=name,
            hosts=hosts,
            hosts_per_node=hosts_per_node,
            gpus_per_host=gpus_per_host,
            residency=dict(residency or {}),
            copies=dict(copies or {}),
            busy_wait_s=busy_wait_s,
        )
        self._connection = Connection(self.options)
        self._calls = Calls(self._connection)
        self._errands = Errands(self._calls)

    @property
    def connected(self) -> bool:
        """Whether it is connected."""
        return self._connection.link is not None

    def over(self, loader: Loader, *, auto: bool = True) -> Loader:
        """Return a loader that loads on the cluster what belongs there, by `loader` all the rest.

        Parameters
        ----------
        auto
            Whether configs of device ``auto`` belong there; those of ``ray``, ``ray:cuda`` and
            ``ray:cpu`` do always.
        """
        return ClusterLoader(self._errands, self.options, loader, auto=auto, began=self._begin)

    def connect(
        self, progress: ProgressSink | None = None, cancel: threading.Event | None = None
    ) -> None:
        """Connect now, and start what is not there, rather than with the first load.

        Parameters
        ----------
        progress
            Called with each stage, on the calling thread.
        cancel
            Set it from another thread to leave.

        Raises
        ------
        ClusterUnavailableError
            If Ray is not installed, or the cluster cannot be reached.
        Cancelled
            When `cancel` was set.
        """
        self._begin()
        self._connection.open(progress, cancel)

    def view(self) -> ClusterView:
        """Return who is there, what each holds and what it does; empty before it is connected.

        Raises
        ------
        ClusterUnavailableError
            If it cannot be reached any more.
        """
        return self._calls.view() if self.connected else ClusterView()

    def leave(self) -> None:
        """Disconnect: what this process claims is given up, and models stay on their nodes.

        What is being loaded, answered or connected ends as if it had been cancelled.
        A Ray of this machine alone ends, since nobody else uses it. The next use connects again.
        """
        atexit.unregister(self._leave_at_exit)
        self._calls.leave()
        self._connection.close()

    def close(self, *, hosts: bool = False) -> None:
        """Disconnect, see `leave`.

        Parameters
        ----------
        hosts
            Also end the hosts of a cluster that goes on, for everybody who uses them.
        """
        if hosts and self.connected and not self.options.is_local:
            self._connection.end_hosts()
        self.leave()

    def table(self) -> Table:
        """Draw it: a row a node, with what it holds and does."""
        return view_table(self.options, self.view() if self.connected else None)

    def __repr__(self) -> str:
        where = self.options.address or "of this machine"
        state = "connected" if self.connected else "not connected"
        return f"<Cluster {where}: {state}>"

    def _begin(self) -> None:
        """See to it that the end of the process leaves the cluster first."""
        atexit.unregister(self._leave_at_exit)
        atexit.register(self._leave_at_exit)

    def _leave_at_exit(self) -> None:
        with contextlib.suppress(Exception):  # Ray notices the end of the process anyway
            self.leave()
