"""How a host tells the registry what it holds: at each change, and once a second."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.messages import HostReport
from ollm_widgets.cluster.servers.bridge import on_thread
from ollm_widgets.cluster.servers.calling import call

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from ollm_widgets.cluster.servers.holding import Holding

_log = logging.getLogger(__name__)

# A registry that was restarted knows its hosts again after so long at most.
_EVERY_S = 1.0
# Changes come in crowds; one report tells of all of them.
_GATHER_S = 0.02
# The registry may be on its way to another node; what is told then is told again later.
_PATIENCE_S = 10.0
# The registry may have ended with the host, and learns from Ray in any case.
_PARTS_S = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a host is.

    Parameters
    ----------
    host
        Serve's id of the replica.
    node_id, node
        Ray's id of its node, and what a person calls that.
    actor
        The replica itself, to be asked whether it lives.
    """

    host: str
    node_id: str
    node: str
    actor: ActorHandle[Any]


class Reporter:
    """Tells the registry, one thing at a time and in order. Used on the host's event loop.

    Parameters
    ----------
    registry
        Serve's handle of it.
    identity
        Who tells.
    holding
        What there is to tell.
    """

    def __init__(self, registry: Any, identity: Identity, holding: Holding) -> None:
        self._registry = registry
        self._me = identity
        self._holding = holding
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._number = 0

    def poke(self) -> None:
        """Have it report soon; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    async def run(self) -> None:
        """Report for as long as the host lives."""
        while True:
            try:
                async with self._one_at_a_time:
                    await self._report()
            except Exception as error:  # the next one tells all that this one would have
                _log.warning("The registry could not be told: %s", error)
            try:
                await asyncio.wait_for(self._changed.wait(), _EVERY_S)
                await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass
            self._changed.clear()

    async def report(self) -> HostReport:
        """Return a report as of now."""
        self._number += 1
        number = self._number
        held, free_bytes = await on_thread(
            lambda: (self._holding.held(), self._holding.free_bytes())
        )
        return HostReport(number, held, free_bytes, self._holding.most)

    async def loaded(self, key: str) -> bool:
        """Tell that a load has ended; returns whether somebody has pinned the model."""
        return bool(await self._told("loaded", key))

    async def gone(self, key: str) -> None:
        """Tell that a model has left."""
        await self._told("gone", key)

    async def part(self) -> None:
        """Tell that the host shuts down in order."""
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._call("part", self._me.host), _PARTS_S)

    async def release(self, reservation: str) -> None:
        """Tell that a request has ended, until the registry has heard of it."""
        while True:
            try:
                await self._call("release", reservation)
                return
            except Exception as error:
                _log.warning("A request has ended, and the registry could not be told: %s", error)
            await asyncio.sleep(_EVERY_S)

    async def _report(self) -> None:
        report = await self.report()
        if not await self._call("report", self._me.host, report):
            me = self._me
            await self._call("join", me.host, me.node_id, me.node, me.actor)
            await self._call("report", me.host, report)

    async def _told(self, method: str, key: str) -> Any:
        """Tell of a change that is in the next report too; None where nobody could be told."""
        try:
            async with self._one_at_a_time:
                return await self._call(method, self._me.host, key, self._number)
        except Exception as error:
            _log.warning("The registry could not be told: %s", error)
            return None
        finally:
            self._changed.set()

    async def _call(self, method: str, *args: Any) -> Any:
        return await asyncio.wait_for(call(self._registry, method, *args), _PATIENCE_S)
