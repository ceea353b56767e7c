"""The deployments of a cluster, as Serve is given them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.servers.host import Host
from ollm_widgets.cluster.servers.naming import known_nodes
from ollm_widgets.cluster.servers.registry import Registry

if TYPE_CHECKING:
    from ray.serve import Application
    from ray.serve.config import AutoscalingConfig

    from ollm_widgets.cluster.options import ClusterOptions

REGISTRY, HOST = "Registry", "Host"

_ROUTER = "ollm_widgets.cluster.servers.reserved:ReservedRouter"
_POLICY = "ollm_widgets.cluster.servers.serving:OnEachNode"
# Requests wait in the runtimes, whose queues show them, and not in Serve.
_MOST_REQUESTS = 10_000
_MOST_HOSTS = 10_000
# A node that was cut off for a moment keeps its models.
_NODE_GONE_S = 5.0
_NODES_COME_S = 1.0
_GROWS_S, _SHRINKS_S = 2.0, 600.0
_REQUESTS_PER_HOST = 4


def application(options: ClusterOptions) -> Application:
    """Build what Serve runs: the registry, and the hosts.

    Who deploys it where it runs already restarts what others use.
    """
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    # Its types know functions and classes that were decorated, and no import paths.
    deployment: Any = serve.deployment
    router: Any = RequestRouterConfig
    registry = deployment(
        Registry,
        name=REGISTRY,
        num_replicas=1,
        max_ongoing_requests=_MOST_REQUESTS,
        ray_actor_options={"num_cpus": 0},
    )
    host = deployment(
        Host,
        name=HOST,
        max_ongoing_requests=_MOST_REQUESTS,
        max_replicas_per_node=options.hosts_per_node,
        ray_actor_options={"num_cpus": 0, "num_gpus": options.gpus_per_host or 0},
        request_router_config=router(request_router_class=_ROUTER),
        **_number_of_hosts(options),
    )
    bound: Application = host.bind(registry.bind(), dict(options.residency))
    return bound


class OnEachNode:
    """Serve's autoscaling policy: as many hosts as the nodes take.

    Parameters
    ----------
    hosts_per_node
        The most of one node.
    gpus_per_host
        What each reserves; a node with fewer has none.
    """

    def __init__(self, hosts_per_node: int, gpus_per_host: float) -> None:
        self._hosts_per_node = hosts_per_node
        self._gpus_per_host = gpus_per_host
        self._counted, self._count_again = 0, 0.0

    def __call__(self, _context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many there shall be, and what Serve is to remember."""
        now = time.monotonic()
        if now >= self._count_again:  # Serve asks ten times a second
            self._counted, self._count_again = self.count(), now + _NODES_COME_S
        return self._counted, {}

    def count(self) -> int:
        """Count the hosts that the nodes of now take."""
        return sum(self._of(node["Resources"]) for node in known_nodes() if node["Alive"])

    def _of(self, resources: dict[str, float]) -> int:
        if not self._gpus_per_host:
            return self._hosts_per_node
        return min(self._hosts_per_node, int(resources.get("GPU", 0) / self._gpus_per_host))


def _number_of_hosts(options: ClusterOptions) -> dict[str, Any]:
    if options.bounds is None:
        return {"autoscaling_config": _one_a_node(options)}
    least, most = options.bounds
    if least == most:
        return {"num_replicas": most}
    return {"autoscaling_config": _by_need(least, most)}


def _one_a_node(options: ClusterOptions) -> AutoscalingConfig:
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    takes: dict[str, Any] = {
        "hosts_per_node": options.hosts_per_node,
        "gpus_per_host": options.gpus_per_host or 0,
    }
    policy: Any = AutoscalingPolicy
    return AutoscalingConfig(
        min_replicas=0,
        initial_replicas=OnEachNode(**takes).count(),
        max_replicas=_MOST_HOSTS,
        upscale_delay_s=0,
        downscale_delay_s=_NODE_GONE_S,
        policy=policy(policy_function=_POLICY, policy_kwargs=takes),
    )


def _by_need(least: int, most: int) -> AutoscalingConfig:
    from ray.serve.config import AutoscalingConfig

    return AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        target_ongoing_requests=_REQUESTS_PER_HOST,
        upscale_delay_s=_GROWS_S,
        downscale_delay_s=_SHRINKS_S,
    )
