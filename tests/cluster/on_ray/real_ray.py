"""A real Ray cluster of several nodes on this machine, on loopback, and its hosts."""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ollm_widgets.cluster.failures import HostGoneError
from ollm_widgets.cluster.messages import PROTOCOL, Ask, ClusterView, Route, Wanted

if TYPE_CHECKING:
    from ollm_widgets.cluster.options import ClusterOptions

NODES = ("node-a", "node-b", "node-c")
APP = "ollm"
# Each node has an address of its own; Ray takes 127.0.0.1 for the machine's address elsewhere.
_LOOPBACK = "127.0.0.{}"
_OBJECT_STORE_BYTES = 100_000_000
# Processes of the head that the tests do without: of three nodes on two cores each is one of many.
_NOBODY_LOOKS = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
_PATIENCE_S = 60.0
_LOOKS_S = 0.05
# What the processes of the cluster start with.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray gives up on a node whose agent takes longer, as on a machine that is at work.
    "RAY_agent_register_timeout_ms": "120000",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "OLLM_OBSERVE": "0",
}


class RealRay:
    """Nodes of a Ray cluster, of which this process is a driver; the first one is the head."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={**_node(NODES[0]), **_NOBODY_LOOKS},
        )
        self._nodes: dict[str, Any] = {}
        self.address: str = self._cluster.address

    def add_node(self, name: str) -> None:
        """Start a node."""
        self._nodes[name] = self._cluster.add_node(**_node(name))

    def kill_node(self, name: str) -> None:
        """Kill all processes of a node, as a loss of power does."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def end(self) -> None:
        """End all processes."""
        self._cluster.shutdown()


class Hosts:
    """The deployments of an application, called as a client calls them."""

    def __init__(self, name: str = APP) -> None:
        from ray import serve

        self.name = name
        self._registry = serve.get_deployment_handle("Registry", app_name=name)
        self._hosts = serve.get_deployment_handle("Host", app_name=name)

    def registry(self, method: str, *args: Any) -> Any:
        """Call a method of the registry."""
        return self.registry_later(method, *args).result(timeout_s=30)

    def registry_later(self, method: str, *args: Any) -> Any:
        """Begin to call a method of the registry; returns Serve's response."""
        return self._registry.options(method_name=method).remote(*args)

    def host(self, method: str, host: str | None, *args: Any) -> Any:
        """Call a method of a host."""
        return self.host_later(method, host, *args).result(timeout_s=60)

    def host_later(self, method: str, host: str | None, *args: Any) -> Any:
        """Begin to call a method of a host; returns Serve's response."""
        return self._hosts.options(method_name=method).remote(host, *args)

    def stream(self, method: str, host: str, *args: Any) -> Any:
        """Begin to read a generator of a host; returns Serve's response."""
        return self._hosts.options(method_name=method, stream=True).remote(host, *args)

    def view(self) -> ClusterView:
        """Look at the cluster."""
        view: ClusterView = self.registry("view")
        return view

    def on(self, node: str) -> str:
        """Return the host of a node."""
        (found,) = (host.host for host in self.view().hosts if host.node == node)
        return found

    def actor(self, host: str) -> Any:
        """Return the replica of a host, as Ray knows it."""
        import ray

        return ray.get_actor(f"SERVE_REPLICA::{self.name}#Host#{host}", namespace="serve")

    def pid(self, host: str) -> int:
        """Return the process of a host."""
        # Ray tells it in public only where its dashboard runs.
        from ray._private import state

        return int(state.actors(self.actor(host)._actor_id.hex())["Pid"])

    def restart_registry(self) -> None:
        """Kill the process of the registry; Serve starts another one."""
        import ray

        (name,) = (
            one["name"]
            for one in ray.util.list_named_actors(all_namespaces=True)
            if one["name"].startswith(f"SERVE_REPLICA::{self.name}#Registry#")
        )
        ray.kill(ray.get_actor(name, namespace="serve"))

    def settle(self, nodes: int) -> None:
        """Wait until as many hosts have reported."""
        until(lambda: sum(one.free_bytes > 0 for one in self.view().hosts) == nodes)

    def empty(self) -> None:
        """Unload everything, once nobody uses it."""
        until(lambda: self.view().reservations == 0)
        until(self._is_empty)

    def _is_empty(self) -> bool:
        from ray.exceptions import RayError

        hosts = self.view().hosts
        for host in hosts:
            for copy in host.held:
                with contextlib.suppress(RayError, HostGoneError):
                    self.host("unload", host.host, copy.key, True)
        return not any(host.held or host.loading for host in hosts)


class Client:
    """A client of the registry, made by hand, for as long as its sign of life is there."""

    def __init__(self, hosts: Hosts) -> None:
        from ollm_widgets.cluster.servers.presence import be_present

        self.name = f"client-{uuid.uuid4().hex[:8]}"
        self.presence = be_present()
        self._hosts = hosts
        hosts.registry("attend", self.name, PROTOCOL, self.presence)

    def route(self, wanted: Wanted, **more: Any) -> Route:
        """Ask where a request goes."""
        route: Route = self._hosts.registry("route", Ask(self.name, wanted, **more))
        return route

    def load(self, route: Route, wanted: Wanted) -> list[Any]:
        """Load a model where it goes; returns all that came."""
        return list(self.loading(route, wanted))

    def loading(self, route: Route, wanted: Wanted) -> Any:
        """Begin to load a model where it goes; returns Serve's response."""
        return self._hosts.stream(
            "load", route.host, route.reservation, wanted, route.evicts, self.name
        )

    def put(self, wanted: Wanted) -> str:
        """Have a model in memory and idle; returns where."""
        route = self.route(wanted)
        if route.loads:
            self.load(route, wanted)
        self._hosts.registry("release", route.reservation)
        return route.host

    def stream(self, route: Route, key: str, prompt: Any, **generation: Any) -> Any:
        """Begin an answer; returns Serve's response."""
        return self._hosts.stream(
            "stream",
            route.host,
            route.reservation,
            key,
            prompt,
            generation,
            self.name,
            self.name,
        )

    def leave(self) -> None:
        """Go."""
        self._hosts.registry("leave", self.name)


def until(is_so: Callable[[], object], patience_s: float = _PATIENCE_S) -> float:
    """Look again and again until something is so; returns the seconds that it took."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > patience_s:
            pytest.fail(f"It has not become so within {patience_s:g} s.")
        time.sleep(_LOOKS_S)
    return time.monotonic() - began


def only_ray() -> AbstractContextManager[object]:
    """Wait until no other tests run a cluster on this machine; held while these do."""
    from filelock import FileLock

    return FileLock(Path(tempfile.gettempdir()) / "ollm-ray-tests.lock")


@contextmanager
def running_ray(cache: Path) -> Iterator[RealRay]:
    """Run a Ray cluster of three nodes; one at a time on this machine.

    Parameters
    ----------
    cache
        Where its hosts keep what outlives them.
    """
    ray = pytest.importorskip("ray", reason="Ray is not installed; `make setup` installs it")
    with only_ray():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**ENVIRONMENT, "OLLM_CACHE_DIR": str(cache)}.items():
                patch.setenv(name, value)
            nodes = RealRay()
            for name in NODES[1:]:
                nodes.add_node(name)
            ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield nodes
        finally:
            from ray import serve

            serve.shutdown()
            ray.shutdown()
            nodes.end()


def deploy(options: ClusterOptions, hosts: int) -> Hosts:
    """Have Serve run hosts, and return them as soon as so many have reported."""
    from ray import serve

    from ollm_widgets.cluster.servers.serving import application

    serve.start(proxy_location="Disabled")
    serve.run(application(options), name=options.name, route_prefix=None)
    deployed = Hosts(options.name)
    deployed.settle(hosts)
    return deployed


def _node(name: str) -> dict[str, Any]:
    return {
        "node_name": name,
        "node_ip_address": _LOOPBACK.format(NODES.index(name) + 2),
        "num_cpus": 1,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
