"""How this process comes to be connected to Ray, and known to the registry."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.client.deploying import check_started
from ollm_widgets.cluster.client.link import Link
from ollm_widgets.cluster.client.post import Post
from ollm_widgets.cluster.client.troubles import (
    asks_for_token,
    first_line,
    not_installed,
    unreachable,
)
from ollm_widgets.cluster.messages import PROTOCOL
from ollm_widgets.errors import ClusterUnavailableError

if TYPE_CHECKING:
    from ollm_widgets.cluster.options import ClusterOptions

CONNECT = "Connect to the cluster"

_LOOPBACK = "127.0.0.1"
# Ray's switch for laptops, read when it is imported: loopback stays loopback, where Ray would put
# the machine's own address in its place.
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Answers and progress pass through it, no weights; Ray would take a third of the memory.
_OBJECT_STORE_BYTES = 200_000_000
_KNOCK_S = 1.0
_ATTEND_S = 10.0
_START_S = 120.0
# What Ray reads when it is imported; who has set one of them means it.
_ENVIRONMENT = {
    # Ray reports its use to its makers.
    "RAY_USAGE_STATS_ENABLED": "0",
    # GPUs are hidden from who reserves none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A driver, here the notebook's kernel, is ended a minute after the cluster's head has gone.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "2000000",
    # Serve, which goes on looking for a cluster that was left, has Ray start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # What concerns nobody there is written into the notebook; Ray's own level would add a line.
    "GRPC_VERBOSITY": "ERROR",
}


def connect_to_ray(options: ClusterOptions) -> bool:
    """Connect this process to Ray, starting one for a local cluster.

    Returns
    -------
    bool
        Whether it was not connected already; a connection of somebody else is used as it is.

    Raises
    ------
    ClusterUnavailableError
        If Ray is not installed, or cannot be reached, or this process is connected elsewhere.
    """
    on_loopback = options.is_local or _host_of(options) in (_LOOPBACK, "localhost")
    for name, value in {**_ENVIRONMENT, **(_ON_LOOPBACK if on_loopback else {})}.items():
        os.environ.setdefault(name, value)
    if importlib.util.find_spec("ray") is None:
        raise not_installed()
    if "ray" not in sys.modules:
        _knock(options)  # importing Ray takes seconds
    import ray

    if ray.is_initialized():
        _check_connected(options)
        return False
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.address is None:
        _start_ray(quiet)
        _print_news(False)
        return True
    _knock(options)
    try:
        ray.init(address=options.address, **quiet)
        _print_news(False)
    except Exception as error:
        if asks_for_token(error):
            raise ClusterUnavailableError(
                f"The cluster at {options.address} asks for Ray's token, which this process does "
                "not send.",
                hint='Start the kernel with RAY_AUTH_MODE=token, or write "auto" on its node.',
            ) from error
        raise unreachable(first_line(error)) from error
    return True


def disconnect_from_ray() -> None:
    """End this process's connection; a local cluster ends with it."""
    import ray
    from ray.serve import context

    # Serve would look for its controller in the next cluster, too.
    forget: Any = context._disconnect
    forget()
    ray.shutdown()
    _print_news(True)


def attend(post: Post, options: ClusterOptions, handles: tuple[Any, Any]) -> Link:
    """Make this process known to the registry, as soon as that is up.

    Raises
    ------
    ClusterUnavailableError
        If it does not come up.
    """
    from ollm_widgets.cluster.servers.presence import be_present

    client = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    link = Link(client, *handles, be_present())
    try:
        _introduce(post, options, link)
    except BaseException:
        # The registry may have heard of it all the same.
        post.send(link.end())
        raise
    return link


def _introduce(post: Post, options: ClusterOptions, link: Link) -> None:
    attending = ("attend", link.client, PROTOCOL, link.presence)
    until = time.monotonic() + _START_S
    while True:
        try:
            post.ask(link.registry(*attending), None, _ATTEND_S)
            return
        except TimeoutError:
            check_started(options)
            if time.monotonic() >= until:
                raise ClusterUnavailableError(
                    f"The cluster was joined, but its hosts do not answer after {_START_S:.0f} s.",
                    hint="Look at the logs of Serve. RAY_AUTH_MODE, if it is set there, has to be "
                    "the same here.",
                ) from None


def _start_ray(quiet: dict[str, Any]) -> None:
    import ray

    util: Any = ray.util
    if util.get_node_ip_address() != _LOOPBACK:
        raise ClusterUnavailableError(
            "Ray was imported before, set up for a network: what it starts could be reached from "
            "other machines.",
            hint="Restart the kernel and load before `import ray`, or call ray.init() yourself.",
        )
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_name=socket.gethostname(),
            **quiet,
        )
    except Exception as error:
        raise ClusterUnavailableError(
            f"Ray could not be started on this machine: {first_line(error)}",
            hint="Its logs are in session_latest/logs of Ray's folder for temporary files.",
        ) from error


def _print_news(shown: bool) -> None:
    """Have Ray print into the notebook which nodes and processes have gone, or keep it from that.

    Requests say so where it concerns them. Ray has no option for it.
    """
    from ray._private import worker

    module: Any = worker
    module._worker_logs_enabled = shown


def _check_connected(options: ClusterOptions) -> None:
    """See that the cluster to which this process is connected is the one that is meant.

    Raises
    ------
    ClusterUnavailableError
        If it is another one: Ray has one connection a process.
    """
    import ray

    host, port = _host_of(options), (options.address or "").rpartition(":")[2]
    own = ray.get_runtime_context().gcs_address
    own_host, _, own_port = own.rpartition(":")
    if not host or not port.isdigit():
        return
    if port != own_port or _addresses(host).isdisjoint(_addresses(own_host)):
        _knock(options)
        raise ClusterUnavailableError(
            f"This process is connected to the cluster at {own} already, and can be to one only.",
            hint='Write "auto" for that one, or restart the kernel for the other.',
        )


def _addresses(host: str) -> set[str]:
    """Return what a name stands for; nothing for one that nobody knows."""
    try:
        return {str(known[4][0]) for known in socket.getaddrinfo(host, None)}
    except OSError:
        return set()


def _host_of(options: ClusterOptions) -> str:
    return (options.address or "").rpartition(":")[0]


def _knock(options: ClusterOptions) -> None:
    """See quickly whether somebody is there; Ray would try for a minute.

    Raises
    ------
    ClusterUnavailableError
        If nobody is.
    """
    host, port = _host_of(options), (options.address or "").rpartition(":")[2]
    if not host or not port.isdigit():
        return
    try:
        with socket.create_connection((host, int(port)), _KNOCK_S):
            pass
    except ConnectionRefusedError:
        raise unreachable(f"nothing listens at {options.address}.") from None
    except TimeoutError:
        raise unreachable(f"{options.address} does not answer.") from None
    except OSError as error:
        raise unreachable(f"{options.address}: {error.strerror or error}.") from None
