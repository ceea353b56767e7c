"""A sign of life of a client: an actor that ends with the process that made it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.actor import ActorHandle


class Presence:
    """Does nothing but be there. Whoever waits for `stay` learns at once when it ends."""

    async def stay(self) -> None:
        """Wait for ever; ends with an error of Ray's when the client is gone."""
        await asyncio.Event().wait()


def be_present() -> ActorHandle[Any]:
    """Start the sign of life of this process, on its own node; its holder keeps the handle.

    Ray ends it with this process, in whatever way that ends.

    Returns
    -------
    ray.actor.ActorHandle
        For `Registry.attend`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    # On another node it could end before its client does.
    on_this_node = NodeAffinitySchedulingStrategy(here, soft=False)
    remote: Any = ray.remote(num_cpus=0)(Presence)
    handle: ActorHandle[Any] = remote.options(scheduling_strategy=on_this_node).remote()
    return handle
