"""How the hosts come to be on a cluster: found, or started by one of those who want them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.client.troubles import understood
from ollm_widgets.errors import ClusterUnavailableError

if TYPE_CHECKING:
    from ollm_widgets.cluster.options import ClusterOptions

START_HOSTS = "Start the hosts"

_START_S = 120.0
_LOOKS_S = 0.5
_TURN_S = 10.0
_FAILED = ("DEPLOY_FAILED", "DELETING")
_NAMESPACE = "ollm"

Say = Callable[[str], None]


class NoHostsYet(Exception):  # noqa: N818  (no failure: nobody has started any)
    """The cluster is there, but nobody has started hosts on it."""


def find_hosts(options: ClusterOptions, say: Say, *, starts: bool) -> tuple[Any, Any]:
    """Find the deployments on the cluster, or start them.

    Returns
    -------
    tuple
        Serve's handles of the registry and of the hosts.

    Raises
    ------
    NoHostsYet
        If there are none, and they are not to be started.
    ClusterUnavailableError
        If they cannot be started.
    """
    from ray.serve.handle import DeploymentHandle

    _quieten()
    if not _is_there(options):
        if not starts:
            raise NoHostsYet
        say(START_HOSTS)
        _start_hosts(options)
    # Those that Serve gives out are shared by the whole process, which one user must not end.
    handle: Any = DeploymentHandle
    return handle("Registry", options.name), handle("Host", options.name)


def end_hosts(options: ClusterOptions) -> None:
    """End the deployments, and the models that they hold."""
    from ray import serve

    serve.delete(options.name)


def check_started(options: ClusterOptions) -> None:
    """See whether what was started has failed.

    Raises
    ------
    ClusterUnavailableError
        If it has; it says why.
    """
    from ray import serve

    known = serve.status().applications.get(options.name)
    if known is None or known.status in _FAILED:
        why = "they were ended" if known is None else known.message
        raise ClusterUnavailableError(
            f"The hosts of the cluster could not be started: {why}",
            hint="Look at `ray status` and at the logs of Serve.",
        )


def _start_hosts(options: ClusterOptions) -> None:
    """Deploy them, unless somebody else does so at this moment.

    Serve would take a second deployment for another version, and restart what the first started.
    """
    import ray
    from ray import serve
    from ray.serve.api import RunTarget

    from ollm_widgets.cluster.servers.serving import application

    turn = None
    until = time.monotonic() + _START_S
    try:
        while turn is None:
            try:
                turn = _take_turn(options)
            except ValueError:  # the name is taken: somebody else has the turn
                if time.monotonic() >= until:
                    raise
                time.sleep(_LOOKS_S)
        if _is_there(options):
            return
        serve.start(proxy_location="Disabled")
        # Who waits for hosts can leave, so that Serve need not wait here.
        serve.run_many(
            [RunTarget(application(options), name=options.name, route_prefix=None)],
            wait_for_applications_running=False,
        )
    except Exception as error:
        raise understood(error) from error
    finally:
        if turn is not None:
            # Ray complains in the notebook of one that is killed before it is there.
            ray.wait([turn.__ray_ready__.remote()], timeout=_TURN_S)
            ray.kill(turn)


class _Turn:
    """Has a name that only one can have, for as long as the process that made it lives."""


def _take_turn(options: ClusterOptions) -> Any:
    import ray

    turn: Any = ray.remote(num_cpus=0)(_Turn)
    return turn.options(name=f"{options.name}-starts", namespace=_NAMESPACE).remote()


def _is_there(options: ClusterOptions) -> bool:
    from ray import serve

    known = serve.status().applications.get(options.name)
    return known is not None and known.status not in _FAILED


def _quieten() -> None:
    """Keep Serve's own messages out of the notebook; what concerns it, its calls raise."""
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
