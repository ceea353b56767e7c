"""Keeps Serve from opening a port in the processes of our deployments.

Each replica of Serve listens on all addresses, for calls between deployments by gRPC. Who reaches
that port is asked for no token, and what he sends is unpickled, which runs whatever he likes. All
calls here are Ray's own, which know who calls; nothing uses the port.
"""

from __future__ import annotations

from typing import Any

# What Serve then takes for the number of its port.
_NONE = 0


def shut_side_door() -> None:
    """Have the replica of this process listen nowhere; called before Serve opens the port.

    Serve has no option for it.
    """
    from ray.serve._private import replica

    module: Any = replica
    module.add_port_to_grpc_server = _no_port


def _no_port(_server: object, _address: str) -> int:
    return _NONE
