"""The registry's books against the rules written down once more, over any history."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ollm_widgets.cluster.books.books import Books
from ollm_widgets.cluster.books.clients import OWN
from ollm_widgets.cluster.books.decisions import OffersWanted, Unable, UnknownClientError
from ollm_widgets.cluster.messages import Ask, HeldCopy, HostReport, Offer, Route, Wanted
from tests.cluster.books.rules import Answer, Rules

GROUPS = {"a": None, "b": None, "c": "pair", "d": "pair"}
SIZES = {"a": 2, "b": 3, "c": 2, "d": 5}
KEYS = st.sampled_from(sorted(GROUPS))
HOSTS = [f"{node}{number}" for node in "xyz" for number in (1, 2)]
CLIENTS = ("me", "you")
MOST = st.sampled_from([1, 2, None])
BYTES = st.integers(5, 9)
PROMPTS = (("long", "short"), ("other", "short"), ("short",), ())


def wanted(key: str, copies: int = 0) -> Wanted:
    return Wanted(key, key.upper(), {}, GROUPS.get(key), copies)


def offer(*, runs: bool = True, fits: bool = True, needed_bytes: int = 0) -> Offer:
    # The rules look at no plan.
    plan: Any = None
    return Offer(plan, runs, fits, needed_bytes, "" if runs else "It needs a GPU.")


@dataclass
class Host:
    """A host as it is: what it holds, and reports that are on their way."""

    most: int | None
    total_bytes: int
    number: int = 0
    held: dict[str, HeldCopy] = field(default_factory=dict)
    underway: list[HostReport] = field(default_factory=list)

    def write(self) -> None:
        self.number += 1
        free = self.total_bytes - sum(copy.frees_bytes for copy in self.held.values())
        self.underway.append(
            HostReport(self.number, tuple(self.held.values()), max(free, 0), self.most)
        )

    def takes(self, key: str) -> None:
        self.held[key] = HeldCopy(
            key, key.upper(), GROUPS[key], "ready", False, SIZES[key], SIZES[key]
        )


def placed(decision: object) -> Answer:
    """Say of a decision what the rules say."""
    if isinstance(decision, Route):
        return ("go", decision.host, decision.loads, decision.evicts)
    if isinstance(decision, OffersWanted):
        return ("offers", decision.hosts)
    return ("unable",) if isinstance(decision, Unable) else ("busy",)


class Histories(RuleBasedStateMachine):
    """Whatever hosts and clients may do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.books, self.rules = Books("now"), Rules()
        self.real: dict[str, Host] = {}
        self.routes: dict[str, Route] = {}
        self.keys: dict[str, str] = {}
        self.clock = 0.0

    # ------------------------------------------------------------------ hosts

    @initialize(
        hosts=st.lists(st.sampled_from(HOSTS), min_size=2, max_size=4, unique=True),
        sizes=st.lists(st.tuples(MOST, BYTES), min_size=4, max_size=4),
    )
    def it_begins(self, hosts: list[str], sizes: list[tuple[int | None, int]]) -> None:
        for host, (most, total_bytes) in zip(hosts, sizes, strict=False):
            self.a_host_joins(host, most, total_bytes)
        self.books.attend("me")

    @precondition(lambda self: len(self.real) < 5)
    @rule(host=st.sampled_from(HOSTS), most=MOST, total_bytes=BYTES)
    def a_host_joins(self, host: str, most: int | None, total_bytes: int) -> None:
        if host in self.real:
            self.books.join(host, "elsewhere", "elsewhere")
            return
        self.real[host] = Host(most, total_bytes)
        self.real[host].write()
        self.books.join(host, host[0], host[0])
        self.rules.nodes[host] = host[0]
        self.deliver(host, 0)

    @precondition(lambda self: self.real)
    @rule(data=st.data())
    def a_host_writes_a_report(self, data: st.DataObject) -> None:
        self.real[data.draw(st.sampled_from(sorted(self.real)))].write()

    @precondition(lambda self: any(host.underway for host in self.real.values()))
    @rule(data=st.data(), again=st.booleans())
    def a_report_comes_in_whatever_order(self, data: st.DataObject, again: bool) -> None:
        host = data.draw(st.sampled_from(sorted(n for n, h in self.real.items() if h.underway)))
        at = data.draw(st.integers(0, len(self.real[host].underway) - 1))
        self.deliver(host, at, again=again)

    def deliver(self, host: str, at: int, *, again: bool = False) -> None:
        reports = self.real[host].underway
        report = reports[at] if again else reports.pop(at)
        assert self.books.report(host, report)
        self.rules.reported(host, report)

    @precondition(lambda self: self.real)
    @rule(data=st.data(), key=KEYS, told=st.booleans())
    def a_host_changes_by_itself(self, data: st.DataObject, key: str, told: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.real)))
        host = self.real[name]
        if key not in host.held:
            host.takes(key)
        elif data.draw(st.booleans()):
            state = data.draw(st.sampled_from(["ready", "demoted", "leaving"]))
            host.held[key] = replace(host.held[key], busy=data.draw(st.booleans()), state=state)
        else:
            del host.held[key]
            if told:
                self.books.gone(name, key, host.number)
                self.rules.gone(name, key, host.number)
        host.write()

    @precondition(lambda self: len(self.real) > 1)
    @rule(data=st.data(), orderly=st.booleans())
    def a_host_ends(self, data: st.DataObject, orderly: bool) -> None:
        host = data.draw(st.sampled_from(sorted(self.real)))
        end = self.books.part if orderly else lambda host: self.books.drop(host, "It died.")
        assert end(host)
        self.rules.ended(host)
        last = self.real.pop(host)
        # Whatever it still says comes too late, and it ends once.
        assert not self.books.drop(host, "It died.")
        assert not self.books.part(host)
        self.books.gone(host, "a", last.number)
        self.books.loaded(host, "a", last.number)
        assert not self.books.report(host, HostReport(last.number + 1, (), 0))

    # ------------------------------------------------------------------ requests

    @rule(data=st.data(), client=st.sampled_from(["me", OWN, "you"]), count=st.integers(1, 6))
    def somebody_asks(self, data: st.DataObject, client: str, count: int) -> None:
        for _ in range(count):
            key = data.draw(KEYS)
            prefix = data.draw(st.sampled_from(PROMPTS))
            avoid = frozenset(data.draw(st.sets(st.sampled_from(HOSTS), max_size=1)))
            adds = data.draw(st.integers(0, 5)) == 5
            self.ask(data, Ask(client, wanted(key), prefix, avoid, adds))

    def ask(self, data: st.DataObject, ask: Ask) -> None:
        if not self.books.attends(ask.client):
            with pytest.raises(UnknownClientError, match="attend again"):
                self.books.route(ask, now=self.clock)
            return
        offers: dict[str, Offer] | None = None
        answer = self.rules.decide(ask, offers)
        decision = self.books.route(ask, now=self.clock)
        assert placed(decision) == answer
        if isinstance(decision, OffersWanted):
            offers = {host: self.offer(data, ask, host) for host in decision.hosts}
            if data.draw(st.integers(0, 7)) == 7:
                del offers[data.draw(st.sampled_from(sorted(offers)))]
            answer = self.rules.decide(ask, offers)
            decision = self.books.route(ask, offers, now=self.clock)
            assert placed(decision) == answer
        if isinstance(decision, Route):
            self.look_at(decision, ask)
            needed_bytes = offers[decision.host].needed_bytes if offers else 0
            self.rules.routed(ask, decision.reservation, answer, needed_bytes)
            assert decision.reservation not in self.routes
            self.routes[decision.reservation] = decision
            self.keys[decision.reservation] = ask.wanted.key
            self.goes_on(data, decision)

    def goes_on(self, data: st.DataObject, route: Route) -> None:
        further = data.draw(st.sampled_from(["ends", "runs", "waits"]))
        if route.loads and further != "waits":
            self.load_ends(data, route.reservation)
        if further == "ends":
            self.release(route.reservation)

    def offer(self, data: st.DataObject, ask: Ask, host: str) -> Offer:
        odd = data.draw(st.integers(0, 9))
        return offer(runs=odd != 9, fits=odd != 8, needed_bytes=SIZES[ask.wanted.key])

    def look_at(self, route: Route, ask: Ask) -> None:
        """See that a route keeps what is promised, by what was true before it."""
        key = ask.wanted.key
        assert route.host in self.real
        assert route.host not in ask.avoid
        assert route.why.endswith(".")
        holds, joins = self.rules.copies(route.host, key), self.rules.load(route.host, key)
        assert holds or route.loads
        if not route.loads or joins:
            return
        limit = self.rules.most[route.host]
        assert limit is None or self.rules.models(route.host) + 1 - len(route.evicts) <= limit
        for gone in route.evicts:
            assert gone not in {pinned for _, pinned in self.rules.pins}
            assert not any((r.host, r.key) == (route.host, gone) for r in self.rules.requests)
            others = sum(len(self.rules.copies(host, gone)) for host in self.real) - 1
            assert others >= max(
                [0, *(w.copies for (_, k), w in self.rules.claims.items() if k == gone)]
            )

    @precondition(lambda self: self.routes)
    @rule(data=st.data(), count=st.integers(1, 8))
    def requests_go_on(self, data: st.DataObject, count: int) -> None:
        """A load ends well, is given up, or an answer ends; and what has ended ends again."""
        for _ in range(count):
            waiting = [one for load in self.rules.loads for one in sorted(load.waiters)]
            open_now = [request.id for request in self.rules.requests]
            if waiting and data.draw(st.integers(0, 3)) < 3:
                self.load_ends(data, data.draw(st.sampled_from(waiting)))
            elif open_now:
                self.release(data.draw(st.sampled_from(open_now)))
        self.release(data.draw(st.sampled_from(sorted(self.routes))))

    @rule()
    def all_requests_end(self) -> None:
        for request in list(self.rules.requests):
            self.release(request.id)

    def release(self, reservation: str) -> None:
        open_before = any(request.id == reservation for request in self.rules.requests)
        self.clock += 1.0
        assert self.books.release(reservation, now=self.clock) == open_before
        assert not self.books.release(reservation, now=self.clock)
        assert not self.books.release(f"an-older-{reservation}", now=self.clock)
        self.rules.released(reservation)

    def load_ends(self, data: st.DataObject, reservation: str) -> None:
        route, key = self.routes[reservation], self.keys[reservation]
        host = self.real[route.host]
        for gone in route.evicts:
            if gone in host.held and not host.held[gone].busy:
                del host.held[gone]
        if key not in host.held:
            host.takes(key)
        told = data.draw(st.sampled_from(["at once", "late", "with a report"]))
        number = host.number
        if told == "at once":
            self.load_is_told(route.host, key, number)
        host.write()
        if told != "at once":
            self.deliver(route.host, len(host.underway) - 1)
        if told == "late":
            self.load_is_told(route.host, key, number)

    def load_is_told(self, host: str, key: str, number: int) -> None:
        self.books.loaded(host, key, number)
        self.rules.loaded(host, key, number)

    # ------------------------------------------------------------------ clients

    @rule(client=st.sampled_from(CLIENTS))
    def a_client_attends(self, client: str) -> None:
        self.books.attend(client)
        assert self.books.attends(client)

    @rule(client=st.sampled_from(CLIENTS), again=st.booleans())
    def a_client_leaves(self, client: str, again: bool) -> None:
        there = self.books.attends(client)
        assert self.books.leave(client) == there
        self.rules.left(client)
        assert not self.books.leave(client)
        if again:
            self.books.attend(client)

    @rule(client=st.sampled_from(CLIENTS), key=KEYS, copies=st.integers(0, 2))
    def a_model_is_claimed(self, client: str, key: str, copies: int) -> None:
        if self.books.attends(client):
            self.books.claim(client, wanted(key, copies))
            self.rules.claims[client, key] = wanted(key, copies)

    @rule(client=st.sampled_from(CLIENTS), key=KEYS)
    def a_model_is_given_up(self, client: str, key: str) -> None:
        self.rules.claims.pop((client, key), None)
        self.rules.pins.discard((client, key))
        kept = any(k == key for _, k in (*self.rules.claims, *self.rules.pins))
        holding = [host for host in self.real if self.rules.copies(host, key, leaving=True)]
        used = {r.host for r in self.rules.requests if r.key == key and r.client != client}
        expected = () if kept else tuple(host for host in holding if host not in used)
        assert self.books.give_up(client, key) == expected

    @rule(client=st.sampled_from(CLIENTS), key=KEYS, pinned=st.booleans())
    def a_model_is_pinned(self, client: str, key: str, pinned: bool) -> None:
        if self.books.attends(client):
            self.books.pin(client, key, pinned)
            (self.rules.pins.add if pinned else self.rules.pins.discard)((client, key))

    # ------------------------------------------------------------------ always

    @invariant()
    def requests_are_counted_once_where_they_are(self) -> None:
        view = self.books.view()
        assert view.reservations == len(self.rules.requests)
        assert sum(sum(host.in_flight.values()) for host in view.hosts) == view.reservations
        for host in view.hosts:
            open_here = [r.key for r in self.rules.requests if r.host == host.host]
            assert dict(host.in_flight) == {key: open_here.count(key) for key in open_here}

    @invariant()
    def the_view_is_what_the_rules_know(self) -> None:
        view = self.books.view()
        assert [host.host for host in view.hosts] == list(self.rules.nodes)
        assert view.pinned == {key for _, key in self.rules.pins}
        for host in view.hosts:
            loading = [load.key.upper() for load in self.rules.loads if load.host == host.host]
            assert sorted(host.loading) == sorted(loading)
            copies = self.rules.copies(host.host, leaving=True)
            assert {copy.key for copy in host.held} == {copy.key for copy in copies}
            leaving = {copy.key for copy in host.held if copy.state == "leaving"}
            assert leaving == {c.key for c in copies if self.rules.leaving(host.host, c)}

    def teardown(self) -> None:
        """When all requests have ended and each host has said what it holds, that is the state."""
        for reservation in self.routes:
            self.books.release(reservation, now=self.clock)
        for name, host in self.real.items():
            host.write()
            assert self.books.report(name, host.underway[-1])
        view = self.books.view()
        assert view.reservations == 0
        for shown in view.hosts:
            assert not shown.in_flight
            assert not shown.loading
            assert shown.held == tuple(self.real[shown.host].held.values())


def test_whatever_happens_a_request_goes_where_the_rules_say() -> None:
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=300,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
