"""Sends a call of a host to the very replica that it names, or says at once that it is gone."""

from __future__ import annotations

import time
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from ollm_widgets.cluster.failures import HostGoneError

# The registry knows a new host a moment before the routers of clients hear of it.
_UNHEARD_OF_S = 5.0
# Calls to a host that nobody has heard of yet must not keep others waiting.
_MOST_AT_ONCE = 1000


class ReservedRouter(RequestRouter):
    """Serve's extension point: a call's first argument says where it goes; None is anywhere.

    Places are given by the registry, which each request asks before; what is left to do here is
    to find the replica.
    """

    def initialize_state(self, **_options: Any) -> None:
        """Begin without having heard of any replica."""
        self._heard_of: set[str] = set()

    @property
    def max_num_routing_tasks(self) -> int:
        """How many calls look for their replica at the same time."""
        return _MOST_AT_ONCE

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Note who has been there."""
        self._heard_of |= {_id_of(replica) for replica in replicas}
        super().update_replicas(replicas)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Choose the one that is named; a call of one that is gone ends with `HostGoneError`."""
        host = None if pending_request is None else _host_of(pending_request)
        if pending_request is None or host is None:
            return [candidate_replicas]
        named = [replica for replica in candidate_replicas if _id_of(replica) == host]
        if named:
            return [named]
        age_s = time.time() - pending_request.created_at
        if host not in self._heard_of and age_s < _UNHEARD_OF_S:
            return []
        # An exception that is raised here only reaches Serve's log, and the call waits for ever.
        if not pending_request.future.done():
            pending_request.future.set_exception(HostGoneError(f"The host {host} is gone."))
        return [candidate_replicas]


def _id_of(replica: RunningReplica) -> str:
    return str(replica.replica_id.unique_id)


def _host_of(request: PendingRequest) -> str | None:
    """Return the first argument of a call: the host's id."""
    return request.args[0] if request.args else None
