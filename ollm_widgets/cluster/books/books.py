"""Who holds what, who uses it, and who is there: a state machine without threads or clock.

Whoever holds it sees to it that one at a time is in it, carries out what it answers, and reports
back. Each method is one transition. Nothing is kept on disk: hosts and clients tell a new one what
they hold, and reservations of an old one are unknown to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from ollm_widgets.cluster.books.clients import Clients
from ollm_widgets.cluster.books.decisions import (
    Busy,
    Decision,
    Go,
    OffersWanted,
    Unable,
)
from ollm_widgets.cluster.books.entries import Coming, Reservation
from ollm_widgets.cluster.books.known_host import KnownHost
from ollm_widgets.cluster.books.routing import Situation, decide
from ollm_widgets.cluster.messages import (
    Ask,
    ClusterView,
    HostReport,
    Offer,
    Route,
    Wanted,
)

MOST_LOST = 100
# What a request takes until one has ended, how much each counts, and the bounds of a retry time.
_FIRST_PACE_S = 2.0
_PACE_SHARE = 0.2
_SOONEST_S, _LATEST_S = 0.2, 5.0


class Books:
    """Hosts, clients and reservations.

    Parameters
    ----------
    name
        Begins the names of its reservations; another one for each registry that is started.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._hosts: dict[str, KnownHost] = {}
        self._reservations: dict[str, Reservation] = {}
        self._clients = Clients()
        self._lost: deque[tuple[str, str]] = deque(maxlen=MOST_LOST)
        self._turns = 0
        self._numbers = 0
        self._pace_s = _FIRST_PACE_S

    # ------------------------------------------------------------------ hosts

    def hosts(self) -> tuple[str, ...]:
        """Return those that have joined, in that order."""
        return tuple(self._hosts)

    def join(self, host: str, node_id: str, node: str) -> None:
        """Note a host; it takes requests from its first report on. One that is there stays.

        Parameters
        ----------
        node_id, node
            Ray's id of its node, and what a person calls that.
        """
        self._hosts.setdefault(host, KnownHost(host, node_id, node))

    def report(self, host: str, report: HostReport) -> bool:
        """Note what a host holds, which is the truth but for what has begun since.

        A load under way has ended when its model is there. What makes room for one that has not
        is marked until it is gone.

        Returns
        -------
        bool
            False for a host that is not known and has to join.
        """
        known = self._hosts.get(host)
        if known is None:
            return False
        known.hear(report)
        return True

    def loaded(self, host: str, key: str, number: int) -> None:
        """Note that a host has ended a load: it holds the model, and nothing that left for it.

        Parameters
        ----------
        number
            Of its last report before; those up to it say nothing of this.
        """
        known = self._hosts.get(host)
        if known is not None:
            known.landed(key, number)

    def gone(self, host: str, key: str, number: int) -> None:
        """Note that a host holds a model no more; `number` as for `loaded`."""
        known = self._hosts.get(host)
        if known is not None:
            known.left(key, number)

    def drop(self, host: str, why: str) -> bool:
        """Forget a host that has died, with its models, loads and reservations.

        Returns
        -------
        bool
            True the first time.
        """
        known = self._hosts.get(host)
        if known is None or not self.part(host):
            return False
        self._lost.append((known.node, why))
        return True

    def part(self, host: str) -> bool:
        """Forget a host that shuts down in order; True the first time."""
        known = self._hosts.pop(host, None)
        if known is None:
            return False
        for reservation in [one for one in self._reservations.values() if one.host == host]:
            del self._reservations[reservation.id]
        return True

    # ------------------------------------------------------------------ clients

    def attend(self, client: str) -> None:
        """Note a client; one that is there stays."""
        self._clients.attend(client)

    def attends(self, client: str) -> bool:
        """Whether a client is there."""
        return self._clients.attends(client)

    def leave(self, client: str) -> bool:
        """Forget a client, its claims, pins and reservations; models stay in memory.

        Returns
        -------
        bool
            Whether it was there.
        """
        if not self._clients.leave(client):
            return False
        for reservation in [one for one in self._reservations.values() if one.client == client]:
            self._close(reservation)
        return True

    def claim(self, client: str, wanted: Wanted) -> None:
        """Note that a client uses a model.

        Raises
        ------
        UnknownClientError
            If it does not attend.
        """
        self._clients.claim(client, wanted)

    def give_up(self, client: str, key: str) -> tuple[str, ...]:
        """Note that a client uses a model no more; its pin goes too.

        Returns
        -------
        tuple of str
            Hosts that may unload it: those that hold it and have no request of another client for
            it. None while somebody else claims or pins it.
        """
        if not self._clients.give_up(client, key):
            return ()
        others = {
            one.host
            for one in self._reservations.values()
            if one.key == key and one.client != client
        }
        holding = (host.host for host in self._hosts.values() if key in host.copies)
        return tuple(host for host in holding if host not in others)

    def pin(self, client: str, key: str, pinned: bool) -> None:
        """Keep a model from making room, or allow it as far as this client goes.

        Raises
        ------
        UnknownClientError
            If it does not attend.
        """
        self._clients.pin(client, key, pinned)

    # ------------------------------------------------------------------ requests

    def decide(self, ask: Ask, offers: Mapping[str, Offer] | None = None) -> Decision:
        """Say where a request would go, and reserve nothing. See `routing.decide`."""
        situation = Situation(
            [host for host in self._hosts.values() if host.heard is not None],
            self._clients.pinned(),
            self._clients.least(),
            min(max(self._pace_s, _SOONEST_S), _LATEST_S),
        )
        return decide(ask, situation, offers)

    def route(
        self, ask: Ask, offers: Mapping[str, Offer] | None = None, *, now: float
    ) -> Route | OffersWanted | Busy | Unable:
        """Say where a request goes, and reserve its place there.

        Parameters
        ----------
        offers
            Of the hosts that a first call named; with any, none are asked for again.
        now
            In seconds of a clock that never goes back.

        Raises
        ------
        UnknownClientError
            If the client does not attend.
        """
        self._clients.check(ask.client)
        decision = self.decide(ask, offers)
        if not isinstance(decision, Go):
            return decision
        known, key = self._hosts[decision.host], ask.wanted.key
        self._numbers += 1
        reservation = Reservation(f"{self._name}-{self._numbers}", ask.client, known.host, key, now)
        self._reservations[reservation.id] = reservation
        if decision.loads:
            wanted, room = ask.wanted, decision.needed_bytes
            load = Coming(key, wanted.name, wanted.group, room, decision.evicts)
            known.board(load, reservation.id)
        known.reserve(key, ask.prefix, self._next_turn())
        return Route(
            reservation.id, known.host, known.node, decision.loads, decision.evicts, decision.why
        )

    def release(self, reservation: str, *, now: float) -> bool:
        """End a reservation; a load that nobody else waits for is given up.

        Returns
        -------
        bool
            True the first time; False also for one of another registry.
        """
        known = self._reservations.get(reservation)
        if known is None:
            return False
        host = self._hosts[known.host]
        host.use(known.key, self._next_turn())
        self._close(known)
        host.rest(known.key)
        self._pace_s += _PACE_SHARE * (now - known.began - self._pace_s)
        return True

    def lacks(self, wanted: Wanted) -> bool:
        """Whether one more host had better load it: fewer have it than wanted, none loads it."""
        taking = [host for host in self._hosts.values() if host.heard is not None]
        having = [host for host in taking if host.turn_of(wanted.key) is not None]
        loading = any(wanted.key in host.coming for host in having)
        return not loading and len(having) < min(wanted.copies, len(taking))

    # ------------------------------------------------------------------ looking

    def view(self) -> ClusterView:
        """Return the cluster as a person sees it."""
        return ClusterView(
            tuple(host.view() for host in self._hosts.values()),
            len(self._reservations),
            self._clients.names(),
            self._clients.pinned(),
            tuple(self._lost),
        )

    def _close(self, reservation: Reservation) -> None:
        del self._reservations[reservation.id]
        self._hosts[reservation.host].close(reservation.key, reservation.id)

    def _next_turn(self) -> int:
        self._turns += 1
        return self._turns
