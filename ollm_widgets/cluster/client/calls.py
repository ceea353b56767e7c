"""Calls to the registry: each is answered, or fails in time with what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ollm_widgets.backends.base import LoadProgress, ProgressSink
from ollm_widgets.cluster.books.decisions import UnknownClientError
from ollm_widgets.cluster.client.claims import Claims
from ollm_widgets.cluster.client.connection import Connection, Visit
from ollm_widgets.cluster.client.deploying import START_HOSTS
from ollm_widgets.cluster.client.link import Link
from ollm_widgets.cluster.client.post import quietly
from ollm_widgets.cluster.client.troubles import unreachable
from ollm_widgets.cluster.failures import HostGoneError, NoHostsError
from ollm_widgets.cluster.messages import PROTOCOL, Ask, ClusterView, Route, Wanted
from ollm_widgets.errors import Cancelled, ClusterBusyError, ClusterUnavailableError, OllmError

if TYPE_CHECKING:
    from ollm_widgets.cluster.messages import Offer

T = TypeVar("T")

WAIT_FOR_ROOM = "Wait for room on the cluster"

# A registry that has ended is there again within a few seconds; Serve sees to it.
_REGISTRY_BACK_S = 30.0
_REGISTRY_ANSWERS_S = 20.0
_FAREWELL_S = 2.0
# Who closes a runtime does not wait long for a cluster that is gone.
_GIVES_UP_S = 5.0
_HOST_STARTS_S = 300.0
_AGAIN_S = 0.2
_RELEASES = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes, and the connection by which it was found, in which visit."""

    route: Route
    link: Link
    visit: Visit


class Calls:
    """What a client asks of a registry.

    Parameters
    ----------
    connection
        Made and made anew as needed.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.post = connection.post
        self.claims = Claims()
        self._introducing = threading.Lock()
        self._introduced: Link | None = None

    # ------------------------------------------------------------------ models

    @property
    def visit(self) -> Visit:
        """What begins now belongs to it, and is over when the cluster is left."""
        return self.connection.visit

    def claim(
        self,
        wanted: Wanted,
        visit: Visit,
        progress: ProgressSink | None,
        cancel: threading.Event,
    ) -> None:
        """Say that this process uses a model; connects if need be."""
        self.claims.add(wanted)
        try:
            self._asked(
                lambda link: link.registry("claim", link.client, wanted),
                cancel,
                visit=visit,
                progress=progress,
            )
        except BaseException:
            self.claims.drop(wanted.key)
            raise

    async def end_use(self, key: str) -> bool:
        """Say that one fewer uses a model; hosts unload it where nobody else does.

        Returns
        -------
        bool
            Whether it has left the cluster's memory.
        """
        link = self.connection.link
        if not self.claims.drop(key) or link is None:
            return False
        giving_up = link.registry("give_up", link.client, key)
        hosts = await asyncio.wait_for(giving_up, _GIVES_UP_S)
        for host in hosts:
            # A host that is gone holds nothing.
            with contextlib.suppress(OllmError):
                await link.host("unload", host, key, False)
        return bool(hosts)

    def pin(self, key: str, pinned: bool) -> None:
        """Keep a model in the memory of its hosts, or allow it to leave."""
        self._asked(lambda link: link.registry("pin", link.client, key, pinned))
        self.claims.pin(key, pinned)

    # ------------------------------------------------------------------ looking

    def view(self, cancel: threading.Event | None = None) -> ClusterView:
        """Return what the registry knows."""
        view: ClusterView = self._asked(lambda link: link.registry("view"), cancel)
        return view

    def offers(self, link: Link, wanted: Wanted) -> tuple[tuple[str, str, Offer, str], ...]:
        """Ask how each host would run a model: host, node, offer and why, the likeliest first.

        Raises
        ------
        TimeoutError
            If they take too long to say so.
        """
        try:
            asked = self.post.ask(link.registry("offers", wanted), None, _REGISTRY_ANSWERS_S)
        except ClusterUnavailableError:
            self.connection.lost(link)
            raise
        return tuple(asked)

    # ------------------------------------------------------------------ requests

    def place(
        self,
        wanted: Wanted,
        prefix: tuple[str, ...],
        avoid: frozenset[str],
        *,
        visit: Visit,
        cancel: threading.Event,
        progress: ProgressSink | None = None,
    ) -> Place:
        """Reserve a place for a request; waits while all are taken, and while a host starts.

        Raises
        ------
        Cancelled
            When `cancel` was set, or the cluster was left.
        ClusterBusyError
            When no place has come free in time.
        PlanNotExecutableError
            When no node can run it.
        ClusterUnavailableError
            When the cluster cannot be reached.
        """
        until = time.monotonic() + self.connection.options.busy_wait_s
        started_until = time.monotonic() + _HOST_STARTS_S
        while True:
            try:
                return self._asked(
                    lambda link: self._route(link, visit, Ask(link.client, wanted, prefix, avoid)),
                    cancel,
                    visit=visit,
                    progress=progress,
                    undo=self._release,
                )
            except NoHostsError:
                if time.monotonic() >= started_until:
                    raise _no_host_came() from None
                self._wake(visit, cancel, progress)
            except ClusterBusyError as error:
                left_s = until - time.monotonic()
                if left_s <= 0:
                    raise
                if progress is not None:
                    progress(LoadProgress(WAIT_FOR_ROOM, 0, 0))
                pause(min(error.retry_after_s, left_s), cancel)

    def release(self, place: Place) -> None:
        """Give a place back; harmless where the host has done so."""
        self.post.send(self._release(place))

    def lost(self, place: Place, why: str) -> None:
        """Tell the registry that a host could not be reached, so that it looks."""
        self.post.send(quietly(place.link.registry("lost", place.route.host, why)))

    def leave(self) -> None:
        """Say goodbye: claims and reservations go, models stay where they are.

        What has begun ends, and does not introduce this process again.
        """
        link = self.connection.end_visit()
        self.claims.clear()
        if link is None:
            return
        # Whatever is wrong with the connection, the registry notices that this process has gone.
        with contextlib.suppress(Exception):
            self.post.ask(link.registry("leave", link.client), None, _FAREWELL_S)

    # ------------------------------------------------------------------ inside

    def _asked(
        self,
        call: Callable[[Link], Coroutine[Any, Any, T]],
        cancel: threading.Event | None = None,
        *,
        visit: Visit | None = None,
        progress: ProgressSink | None = None,
        undo: Callable[[T], Coroutine[Any, Any, object]] | None = None,
    ) -> T:
        """Ask the registry; wait for one that is being started again, once for a new connection."""
        visit = visit or self.visit
        until = time.monotonic() + _REGISTRY_BACK_S
        reconnected = False
        while True:
            link = self.connection.open(progress, cancel, visit=visit)
            try:
                self._introduce(link)
                return self.post.ask(call(link), cancel, _REGISTRY_ANSWERS_S, undo)
            except UnknownClientError:
                self._introduced = None
            except HostGoneError as error:
                if time.monotonic() >= until:
                    raise unreachable(error.message) from None
            except TimeoutError:
                self.connection.lost(link)
                raise unreachable(
                    f"its registry has not answered for {_REGISTRY_ANSWERS_S:.0f} s."
                ) from None
            except ClusterUnavailableError:
                self.connection.lost(link)
                if reconnected:
                    raise
                reconnected = True
            pause(_AGAIN_S, cancel)

    def _introduce(self, link: Link) -> None:
        """Tell a registry that does not know it what this process uses."""
        with self._introducing:
            if self._introduced is link:
                return
            self.post.ask(self._introduction(link), None, _REGISTRY_ANSWERS_S)
            self._introduced = link

    async def _introduction(self, link: Link) -> None:
        await link.registry("attend", link.client, PROTOCOL, link.presence)
        for wanted, pinned in self.claims.all():
            await link.registry("claim", link.client, wanted)
            if pinned:
                await link.registry("pin", link.client, wanted.key, True)

    async def _route(self, link: Link, visit: Visit, ask: Ask) -> Place:
        return Place(await link.registry("route", ask), link, visit)

    async def _release(self, place: Place) -> None:
        for _ in range(_RELEASES):
            with contextlib.suppress(Exception):
                await place.link.registry("release", place.route.reservation)
                return

    def _wake(self, visit: Visit, cancel: threading.Event, progress: ProgressSink | None) -> None:
        """Have Serve start a host where there is none, and wait for it."""
        if progress is not None:
            progress(LoadProgress(START_HOSTS, 0, 0))
        link = self.connection.open(progress, cancel, visit=visit)
        try:
            self.post.ask(link.host("wake", None), cancel, _HOST_STARTS_S)
        except TimeoutError:
            raise _no_host_came() from None
        except HostGoneError:
            pass  # it has ended again; the next round sees
        pause(_AGAIN_S, cancel)


def pause(seconds: float, cancel: threading.Event | None) -> None:
    """Wait a little.

    Raises
    ------
    Cancelled
        When `cancel` was set.
    """
    if cancel is None:
        time.sleep(seconds)
    elif cancel.wait(seconds):
        raise Cancelled("The request to the cluster was cancelled.")


def _no_host_came() -> ClusterUnavailableError:
    return unreachable(f"no host has come up for {_HOST_STARTS_S:.0f} s.")
