"""The registry: one replica that knows all hosts, and says where each request goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.books.books import Books
from ollm_widgets.cluster.books.clients import OWN
from ollm_widgets.cluster.books.decisions import Go, OffersWanted
from ollm_widgets.cluster.failures import HostGoneError
from ollm_widgets.cluster.messages import (
    PROTOCOL,
    Ask,
    ClusterView,
    HostReport,
    Offer,
    Route,
    Wanted,
)
from ollm_widgets.cluster.servers.calling import call
from ollm_widgets.cluster.servers.liveness import has_died, outlive
from ollm_widgets.cluster.servers.offering import Offers
from ollm_widgets.cluster.servers.refusing import refusal
from ollm_widgets.cluster.servers.side_door import shut_side_door
from ollm_widgets.errors import ClusterUnavailableError

if TYPE_CHECKING:
    from ray.actor import ActorHandle

_log = logging.getLogger(__name__)

# Hosts report each second; one that is silent for longer may have died.
_SILENT_S = 2.0
_LOOKS_S = 0.5
_JOINED_S = 5.0
# A host that does not take an errand has it no more to do, or will hear of it again.
_ERRAND_S = 5.0


class Registry:
    """Routes requests, and follows who is there. Nothing is kept on disk.

    When it is restarted it begins empty: hosts join again within a second, clients with their next
    request.
    """

    def __init__(self) -> None:
        shut_side_door()
        self._books = Books(uuid.uuid4().hex[:8])
        self._actors: dict[str, ActorHandle[Any]] = {}
        self._heard: dict[str, float] = {}
        self._told: set[str] = set()
        self._ended: set[str] = set()
        self._presences: dict[str, asyncio.Task[None]] = {}
        self._checks: dict[str, asyncio.Task[bool]] = {}
        self._completing: set[str] = set()
        self._offers = Offers(self._host)
        # Until then hosts may be there that have not joined yet.
        self._knows_all = time.monotonic() + _JOINED_S
        # The event loop itself holds its tasks only weakly.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begin(self._watch())

    # ------------------------------------------------------------------ clients

    async def attend(self, client: str, protocol: int, presence: ActorHandle[Any]) -> ClusterView:
        """Note a client for as long as its sign of life is there.

        Raises
        ------
        ClusterUnavailableError
            If it speaks another protocol.
        """
        if protocol != PROTOCOL:
            raise ClusterUnavailableError(
                f"The hosts of the cluster speak protocol {PROTOCOL}, this notebook {protocol}.",
                hint="Install the same version of ollm-widgets on all machines.",
            )
        self._books.attend(client)
        earlier = self._presences.pop(client, None)
        if earlier is not None:
            earlier.cancel()
        self._presences[client] = self._begin(self._stay_until_gone(client, presence))
        return self._books.view()

    async def leave(self, client: str) -> None:
        """Forget a client: its claims, pins and requests end; models stay in memory."""
        watching = self._presences.pop(client, None)
        if watching is not None:
            watching.cancel()
        await self._forget(client)

    async def claim(self, client: str, wanted: Wanted) -> None:
        """Note that a client uses a model.

        Raises
        ------
        UnknownClientError
            If it does not attend.
        """
        self._books.claim(client, wanted)

    async def give_up(self, client: str, key: str) -> tuple[str, ...]:
        """Note that a client uses a model no more.

        Returns
        -------
        tuple of str
            Hosts that may unload it, as nobody else uses it; empty while somebody does.
        """
        before = self._books.view().pinned
        hosts = self._books.give_up(client, key)
        self._tell_pins(before)
        return hosts

    async def pin(self, client: str, key: str, pinned: bool) -> None:
        """Keep a model in memory, or allow it to leave as far as this client goes.

        Raises
        ------
        UnknownClientError
            If it does not attend.
        """
        before = self._books.view().pinned
        self._books.pin(client, key, pinned)
        self._tell_pins(before)

    # ------------------------------------------------------------------ requests

    async def route(self, ask: Ask) -> Route:
        """Say where a request goes, and reserve its place there.

        Raises
        ------
        UnknownClientError
            If the client does not attend.
        NoHostsError
            If there is no host yet.
        ClusterBusyError
            If no host can take it now.
        PlanNotExecutableError
            If no host can ever run it.
        """
        decision = self._books.route(ask, now=time.monotonic())
        if isinstance(decision, OffersWanted):
            offers = await self._offers.of(decision.hosts, ask.wanted)
            # Without waiting in between: what is decided is noted before anybody else decides.
            decision = self._books.route(ask, offers, now=time.monotonic())
        if not isinstance(decision, Route):
            raise refusal(decision)
        if not ask.adds and self._books.lacks(ask.wanted):
            self._begin(self._complete(ask.wanted))
        return decision

    async def offers(self, wanted: Wanted) -> tuple[tuple[str, str, Offer, str], ...]:
        """Say how hosts would run a model, and reserve nothing.

        Returns
        -------
        tuple
            Host, node, offer and why it is taken or not, of each that answers; first the one that
            a request would go to.

        Raises
        ------
        OllmError
            If the config cannot work.
        """
        hosts = self._books.hosts()
        offers = await self._offers.of(hosts, wanted)
        decision = self._books.decide(Ask(OWN, wanted), offers)
        nodes = {host.host: host.node for host in self._books.view().hosts}
        first = decision.host if isinstance(decision, Go) else ""
        whys = {
            host: decision.why if isinstance(decision, Go) and host == first else offer.refusal
            for host, offer in offers.items()
        }
        return tuple(
            (host, nodes[host], offers[host], whys[host])
            for host in sorted(offers, key=lambda host: host != first)
            if host in nodes
        )

    async def release(self, reservation: str) -> bool:
        """End a reservation; True the first time."""
        return self._books.release(reservation, now=time.monotonic())

    async def view(self) -> ClusterView:
        """Return the cluster as a person sees it."""
        return self._books.view()

    # ------------------------------------------------------------------ hosts

    async def join(self, host: str, node_id: str, node: str, actor: ActorHandle[Any]) -> None:
        """Note a host; one that has ended does not come back."""
        if host not in self._ended:
            self._actors[host] = actor
            self._heard[host] = time.monotonic()
            self._books.join(host, node_id, node)

    async def report(self, host: str, report: HostReport) -> bool:
        """Note what a host holds; False for one that is not known and has to join."""
        if host in self._ended:
            return True  # it is about to hear so from Serve
        self._heard[host] = time.monotonic()
        self._offers.heard(host, report)
        if not self._books.report(host, report):
            return False
        if host not in self._told:
            # It may keep what was pinned by the word of a registry that was restarted.
            self._told.add(host)
            pinned = self._books.view().pinned
            for copy in report.held:
                self._begin(self._errand("pin", host, copy.key, copy.key in pinned))
        return True

    async def loaded(self, host: str, key: str, number: int) -> bool:
        """Note that a host has loaded a model; returns whether it is pinned."""
        self._books.loaded(host, key, number)
        return key in self._books.view().pinned

    async def gone(self, host: str, key: str, number: int) -> None:
        """Note that a model has left a host."""
        self._books.gone(host, key, number)

    async def part(self, host: str) -> None:
        """Note that a host shuts down in order."""
        self._books.part(host)
        self._end(host)

    async def lost(self, host: str, why: str) -> bool:
        """Look whether a host is still there that somebody could not reach.

        Only Ray's word that it died, or Serve's that it is a replica no more, drops it.

        Returns
        -------
        bool
            Whether it is gone.
        """
        if host not in self._actors:
            return host in self._ended or time.monotonic() > self._knows_all
        checking = self._checks.get(host)
        if checking is None:
            checking = self._begin(self._check(host, why))
            self._checks[host] = checking
        # Who asked may leave; the others still wait for the answer.
        return await asyncio.shield(checking)

    # ------------------------------------------------------------------ inside: who is there

    async def _stay_until_gone(self, client: str, presence: ActorHandle[Any]) -> None:
        await outlive(presence)
        self._presences.pop(client, None)
        await self._forget(client)

    async def _forget(self, client: str) -> None:
        before = self._books.view().pinned
        if self._books.leave(client):
            self._tell_pins(before)
            for host in self._books.hosts():
                self._begin(self._errand("abandon", host, client))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOKS_S)
            latest = time.monotonic() - _SILENT_S
            for host in [host for host, heard in self._heard.items() if heard < latest]:
                if host not in self._checks:
                    self._checks[host] = self._begin(self._check(host, "It fell silent."))

    async def _check(self, host: str, why: str) -> bool:
        try:
            actor = self._actors.get(host)
            if actor is None:
                return True
            has_left = self._begin(self._is_replica_no_more(host))
            if await has_died(actor):
                has_left.cancel()
                if self._books.drop(host, why):
                    _log.warning("The host %s has died: %s", host, why)
                self._end(host)
            elif await has_left:
                await self.part(host)
            return host not in self._actors
        finally:
            self._checks.pop(host, None)

    async def _is_replica_no_more(self, host: str) -> bool:
        try:
            await self._host("wake", host)
        except HostGoneError:
            return True
        except Exception as error:  # it lives, and that is all there is to know
            _log.info("The host %s does not answer: %s", host, error)
        return False

    def _end(self, host: str) -> None:
        self._ended.add(host)
        self._told.discard(host)
        self._actors.pop(host, None)
        self._heard.pop(host, None)
        self._offers.forget(host)

    # ------------------------------------------------------------------ inside: errands

    async def _complete(self, wanted: Wanted) -> None:
        """Have one more host load a model that is on fewer than it shall be."""
        if wanted.key in self._completing:
            return
        self._completing.add(wanted.key)
        try:
            route = await self.route(Ask(OWN, wanted, adds=True))
            try:
                goes = (route.host, route.reservation, wanted, route.evicts, OWN)
                async for _progress in call(self._hosts(), "load", *goes, stream=True):
                    pass
            finally:
                await self.release(route.reservation)
        except Exception as error:  # the next request tries again
            _log.warning("%s could not be loaded once more: %s", wanted.name, error)
        finally:
            self._completing.discard(wanted.key)

    def _tell_pins(self, before: frozenset[str]) -> None:
        """Tell hosts which of their models are pinned by now, and which no more."""
        now = self._books.view().pinned
        for host in self._books.view().hosts:
            for copy in host.held:
                if (copy.key in now) != (copy.key in before):
                    self._begin(self._errand("pin", host.host, copy.key, copy.key in now))

    async def _errand(self, method: str, host: str, *args: Any) -> None:
        with contextlib.suppress(Exception):
            await self._host(method, host, *args)

    async def _host(self, method: str, host: str, *args: Any) -> Any:
        """Call a method of a host, for a while."""
        return await asyncio.wait_for(call(self._hosts(), method, host, *args), _ERRAND_S)

    def _hosts(self) -> Any:
        """Return Serve's handle of the hosts, which are there only after the registry."""
        from ray import serve

        app_name = serve.get_replica_context().app_name
        return serve.get_deployment_handle("Host", app_name=app_name)

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        # Ray ends what a call has begun when that call is cancelled, and this is to outlive it.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
