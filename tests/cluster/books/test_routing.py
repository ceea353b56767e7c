"""Where a request goes: each rule alone, and any state of the cluster against the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.cluster.books.books import Books
from ollm_widgets.cluster.books.clients import OWN
from ollm_widgets.cluster.books.decisions import Busy, OffersWanted, Unable
from ollm_widgets.cluster.messages import Ask, HeldCopy, HostReport, Offer, Route, Wanted
from tests.cluster.books.rules import Rules

GROUPS = {"c": "pair", "d": "pair"}


def copy(key: str, *, busy: bool = False, size: int = 2, state: str = "ready") -> HeldCopy:
    return HeldCopy(key, key.upper(), GROUPS.get(key), state, busy, size, size)


def report(*held: HeldCopy | str, free: int = 100, most: int | None = None) -> HostReport:
    return HostReport(
        1, tuple(copy(one) if isinstance(one, str) else one for one in held), free, most
    )


def ask(key: str, prefix: tuple[str, ...] = (), *avoid: str, adds: bool = False) -> Ask:
    return Ask(OWN, Wanted(key, key.upper(), {}, GROUPS.get(key)), prefix, frozenset(avoid), adds)


def offer(needed: int = 2, *, runs: bool = True, fits: bool = True) -> Offer:
    # The rules look at no plan.
    plan: Any = None
    return Offer(plan, runs, fits, needed, "" if runs else "It needs a GPU.")


def books_of(**reports: HostReport) -> Books:
    """Books of hosts that are named by their node's letter first."""
    books = Books("now")
    for host, said in reports.items():
        books.join(host, host[0], host)
        books.report(host, said)
    return books


def go(books: Books, wanted: Ask, **offers: Offer) -> Route:
    route = books.route(wanted, offers or None, now=0.0)
    assert isinstance(route, Route), route
    return route


def refusal(books: Books, wanted: Ask, **offers: Offer) -> Busy | Unable:
    refused = books.route(wanted, offers, now=0.0)
    assert isinstance(refused, Busy | Unable), refused
    return refused


# ------------------------------------------------------------------ held by somebody


def test_the_only_holder_is_used_however_busy_it_is() -> None:
    books = books_of(x=report("a"), y=report())
    assert [go(books, ask("a")).host for _ in range(3)] == ["x"] * 3
    assert go(books, ask("a")).why == "Node x holds it."


def test_among_holders_the_one_with_fewest_requests_is_used() -> None:
    books = books_of(x=report("a", "b"), y=report("a"), z=report("a"))
    # The requests for other models of a host count too.
    go(books, ask("b"))
    chosen = [go(books, ask("a")) for _ in range(3)]
    assert [route.host for route in chosen] == ["y", "z", "x"]
    assert chosen[1].why == "Node z holds it and has the fewest requests (0)."


def test_of_those_with_as_few_requests_the_one_that_used_it_longest_ago_is_used() -> None:
    books = books_of(x=report("a"), y=report("a"))
    for host in ("x", "y", "x"):
        route = go(books, ask("a"))
        assert route.host == host
        books.release(route.reservation, now=1.0)
    assert route.why == (
        "Node x holds it, and of those with the fewest requests (0) it used it longest ago."
    )


def test_of_those_that_never_used_it_the_one_with_most_free_memory_is_used() -> None:
    books = books_of(x=report("a", free=1), y=report("a", free=3), z=report("a", free=3))
    assert go(books, ask("a")).why == (
        "Node y holds it, and of those with the fewest requests (0) it came first."
    )
    books = books_of(x=report("a", free=1), y=report("a", free=3))
    assert go(books, ask("a")).why == (
        "Node y holds it, and of those with the fewest requests (0) it has most memory free."
    )


def test_a_load_under_way_is_joined_and_not_begun_elsewhere() -> None:
    books = books_of(x=report(), y=report())
    assert books.route(ask("a"), now=0.0) == OffersWanted(("x", "y"))
    first = go(books, ask("a"), x=offer(), y=offer())
    second = go(books, ask("a"))
    assert (first.host, first.loads) == (second.host, second.loads) == ("x", True)
    assert second.why == "Node x is loading it."


def test_who_joins_a_load_knows_what_has_to_leave_for_it() -> None:
    books = books_of(x=report("b", most=1))
    assert go(books, ask("a"), x=offer(fits=False)).evicts == ("b",)
    assert go(books, ask("a")).evicts == ("b",)


@pytest.mark.parametrize(("elsewhere", "there"), [(0, 1), (1, 2), (2, 4), (3, 5), (4, 6)])
def test_who_knows_the_prompt_is_preferred_while_it_is_not_much_busier(
    elsewhere: int, there: int
) -> None:
    """At most min + 2, and at most 1.5 x min + 1."""
    prompt = ("whole", "half")

    def chosen(in_flight: int) -> str:
        books = books_of(x=report("a"), y=report("a", "b"), z=report("a", "c"))
        known = go(books, ask("a", prompt, "y", "z"))
        books.release(known.reservation, now=0.0)
        for _ in range(in_flight):
            go(books, ask("a", (), "y", "z"))
        for _ in range(elsewhere):
            go(books, ask("b"))
            go(books, ask("c"))
        return go(books, ask("a", prompt)).host

    assert chosen(there) == "x"
    assert chosen(there + 1) != "x"


def test_who_knows_more_of_the_prompt_is_preferred() -> None:
    books = books_of(x=report("a"), y=report("a"))
    for prefix, avoid in ((("short",), "y"), (("long", "short"), "x")):
        books.release(go(books, ask("a", prefix, avoid)).reservation, now=0.0)
    assert go(books, ask("a", ("short",))).host == "x"
    route = go(books, ask("a", ("longest", "long", "short")))
    assert route.host == "y"
    assert route.why == (
        "Node y holds it and has met the beginning of this prompt "
        "(0 requests there, 1 at least elsewhere)."
    )


def test_the_same_prompt_of_another_model_is_no_reason() -> None:
    books = books_of(x=report("a", "b"), y=report("a", "b"))
    for key, avoid in (("b", "x"), ("a", "y")):
        books.release(go(books, ask(key, ("long",) * (key == "b"), avoid)).reservation, now=0.0)
    assert go(books, ask("a")).host == "y"
    assert go(books, ask("b", ("long",))).host == "y"


# ------------------------------------------------------------------ held by nobody


def test_it_is_loaded_where_it_fits_and_nothing_is_to_do() -> None:
    books = books_of(w=report(free=1), x=report("b"), y=report("b"), z=report(free=3))
    go(books, ask("b", (), "y"))
    route = go(books, ask("a"), w=offer(), x=offer(), y=offer(), z=offer())
    assert (route.host, route.loads, route.evicts) == ("z", True, ())
    assert route.why == "Node z has room for it and nothing to do."


def test_why_it_is_loaded_there_says_what_sets_the_node_apart() -> None:
    books = books_of(x=report(free=1), y=report("b"))
    go(books, ask("b"))
    assert go(books, ask("a"), x=offer(), y=offer()).why == "Only node y has room for it."
    assert go(books_of(x=report()), ask("a"), x=offer()).why == "Node x has room for it."


def test_where_all_are_busy_it_is_loaded_on_the_least_busy() -> None:
    books = books_of(x=report("a"), y=report("b"))
    for key in ("a", "a", "b"):
        go(books, ask(key))
    route = go(books, ask("e"), x=offer(), y=offer())
    assert route.host == "y"
    assert route.why == "Node y has room for it and the fewest requests (1)."


def test_among_idle_hosts_the_one_with_fewest_models_then_most_room_is_taken() -> None:
    books = books_of(w=report("b", free=9), x=report(free=4), y=report(free=6), z=report(free=6))
    every = {host: offer() for host in "wxyz"}
    assert go(books, ask("a"), **every).host == "y"


def test_it_is_loaded_away_from_nodes_that_hold_a_member_of_its_group() -> None:
    books = books_of(x1=report(copy("c", busy=True)), x2=report(), y1=report("b"))
    go(books, ask("b"))
    route = go(books, ask("d"), x1=offer(), x2=offer(), y1=offer())
    assert route.host == "y1"
    assert route.why == "Node y1 has room for it and, unlike others, no model of group 'pair'."


def test_a_load_of_a_member_under_way_keeps_it_away_too() -> None:
    books = books_of(x=report(), y=report("a", "b"))
    assert go(books, ask("c"), x=offer()).host == "x"
    assert go(books, ask("d"), x=offer(), y=offer()).host == "y"


def test_where_every_node_has_a_member_another_host_of_one_is_taken() -> None:
    books = books_of(x1=report("c"), x2=report("a"), y1=report("c"))
    assert go(books, ask("d"), x1=offer(), x2=offer(), y1=offer()).host == "x2"


def test_where_every_host_has_a_member_the_one_that_was_used_longest_ago_leaves() -> None:
    books = books_of(x=report("c", "a"), y=report("c"))
    for avoid in ("y", "x"):
        books.release(go(books, ask("c", (), avoid)).reservation, now=0.0)
    route = go(books, ask("d"), x=offer(), y=offer())
    assert (route.host, route.evicts) == ("x", ("c",))
    assert route.why == "C leaves node x, which keeps one of group 'pair'."


def test_a_member_that_is_being_loaded_there_keeps_it_out() -> None:
    books = books_of(x=report("a"))
    go(books, ask("c"), x=offer())
    assert refusal(books, ask("d"), x=offer()).message == (
        "No node has room for D now: node x holds A (idle) and C (loading)."
    )


def test_what_was_used_longest_ago_anywhere_makes_room() -> None:
    books = books_of(x=report("a", most=1), y=report("b", most=1), z=report("e", most=1))
    for key in ("b", "e", "a"):
        books.release(go(books, ask(key)).reservation, now=0.0)
    route = go(books, ask("f"), **{host: offer(fits=False) for host in "xyz"})
    assert (route.host, route.loads, route.evicts) == ("y", True, ("b",))
    assert route.why == "No node has room: B leaves node y, unused for the longest time."


def test_as_many_leave_as_it_takes_and_no_more() -> None:
    books = books_of(x=report("a", "b", "e", free=1))
    for key in ("e", "a", "b"):
        books.release(go(books, ask(key)).reservation, now=0.0)
    route = go(books, ask("f"), x=offer(5, fits=False))
    assert route.evicts == ("e", "a")
    assert route.why == "No node has room: E and A leave node x, unused for the longest time."


def test_nobody_leaves_a_host_on_which_that_would_not_be_enough() -> None:
    books = books_of(x=report("a", free=1), y=report("b", "e", free=1))
    books.release(go(books, ask("e")).reservation, now=0.0)
    books.release(go(books, ask("b")).reservation, now=0.0)
    assert go(books, ask("f"), x=offer(5), y=offer(5)).evicts == ("e", "b")


def test_loads_under_way_have_their_room_and_what_leaves_for_them_gives_it() -> None:
    books = books_of(x=report("a", "b", free=2))
    first = go(books, ask("e"), x=offer(4))
    assert first.evicts == ("a",)
    assert go(books, ask("f"), x=offer(2)).evicts == ("b",)
    assert isinstance(refusal(books, ask("g"), x=offer(1)), Busy)


def test_what_is_busy_pinned_or_the_last_of_its_copies_stays() -> None:
    busy, kept = copy("a", busy=True), Wanted("e", "E", {}, None, 1)
    books = books_of(x=report(busy, "b", "e", "f", free=0))
    books.attend("me")
    books.pin("me", "b", True)
    books.claim("me", kept)
    go(books, ask("f"))
    refused = refusal(books, ask("g"), x=offer())
    assert refused.message == (
        "No node has room for G now: "
        "node x holds A (busy), B (pinned), E (kept on 1 node) and F (1 request)."
    )
    assert isinstance(refused, Busy)
    assert refused.hint == "Try again in 2.0 s, or unpin or unload a model."
    assert refused.holders == (
        "node x holds A (busy), B (pinned), E (kept on 1 node) and F (1 request)",
    )


def test_a_model_leaves_while_enough_copies_of_it_are_elsewhere() -> None:
    books = books_of(x=report("a", most=1), y=report("a", most=1))
    books.attend("me")
    books.claim("me", Wanted("a", "A", {}, None, 1))
    assert go(books, ask("b"), x=offer(), y=offer()).evicts == ("a",)
    assert isinstance(refusal(books, ask("e"), x=offer(), y=offer()), Busy)


def test_a_model_that_leaves_gets_no_request_and_is_not_loaded_there_meanwhile() -> None:
    books = books_of(x=report("a", most=1), y=report("b", free=0))
    go(books, ask("e"), x=offer(), y=offer())
    assert books.route(ask("a"), now=0.0) == OffersWanted(("y",))
    assert isinstance(refusal(books, ask("a", (), "y")), Busy)
    assert refusal(books, ask("a", (), "y")).message == (
        "No node is left for A: it is just leaving node x; node y has failed it."
    )


def test_one_copy_more_goes_to_a_host_that_has_none() -> None:
    books = books_of(x=report("a"), y=report("b"), z=report("a"))
    assert books.route(ask("a", adds=True), now=0.0) == OffersWanted(("y",))
    assert go(books, ask("a", adds=True), y=offer()).host == "y"
    assert refusal(books, ask("a", adds=True)).message == (
        "No node is left for A: node x has it; node y has it; node z has it."
    )


# ------------------------------------------------------------------ refusals


def test_without_hosts_it_says_so() -> None:
    refused = refusal(Books("now"), ask("a"))
    assert isinstance(refused, Busy)
    assert refused.no_hosts
    assert refused.message == "No node is there to run A."
    joined = Books("now")
    joined.join("x", "x", "x")
    assert isinstance(joined.route(ask("a"), now=0.0), Busy)


def test_what_no_node_can_run_is_refused_for_good_with_what_each_says() -> None:
    books = books_of(x=report(), y=report())
    refused = refusal(books, ask("a"), x=offer(runs=False), y=offer(runs=False))
    assert refused == Unable(
        'No node can run A: nodes x and y say "It needs a GPU".',
        (("x", "It needs a GPU."), ("y", "It needs a GPU.")),
    )


def test_it_is_not_refused_for_good_while_a_node_has_not_been_heard() -> None:
    books = books_of(x=report(), y=report(), z=report())
    refused = refusal(books, ask("a", (), "z"), x=offer(runs=False))
    assert isinstance(refused, Busy)
    assert refused.message == (
        'No node can take A now: node x says "It needs a GPU"; node y did not answer; '
        "node z cannot be used now."
    )


def test_of_a_large_cluster_a_sentence_names_the_first_nodes() -> None:
    names = [f"n{number}" for number in range(20)]
    books = books_of(**dict.fromkeys(names, report(copy("a", busy=True), most=1)))
    refused = refusal(books, ask("b"), **dict.fromkeys(names, offer()))
    assert refused.message.endswith("node n4 holds A (busy); and 15 nodes more.")
    assert isinstance(refused, Busy)
    assert len(refused.holders) == 20


# ------------------------------------------------------------------ any state

KEYS = st.sampled_from("abcd")
COPIES = st.builds(
    copy,
    KEYS,
    busy=st.integers(0, 4).map(lambda n: n == 4),
    size=st.integers(0, 4),
    state=st.sampled_from(["ready", "ready", "demoted", "leaving"]),
)
REPORTS = st.builds(
    lambda held, free, most: report(*held, free=free, most=most),
    st.lists(COPIES, max_size=3, unique_by=lambda one: one.key),
    st.integers(0, 6),
    st.sampled_from([None, 3, 2, 1]),
)
ASKS = st.builds(
    lambda key, prefix, avoid, adds: ask(key, prefix, *avoid, adds=adds),
    KEYS,
    st.sampled_from([(), ("long", "short"), ("short",)]),
    st.sets(st.sampled_from(["x1", "y1"]), max_size=1),
    st.integers(0, 5).map(lambda n: n == 5),
)
OFFERS = st.builds(
    offer,
    st.integers(0, 6),
    runs=st.integers(0, 9).map(lambda n: n < 9),
    fits=st.integers(0, 9).map(lambda n: n < 9),
)
HOSTS = ("x1", "x2", "y1", "y2", "z1")


@settings(max_examples=500, deadline=None)
@given(
    reports=st.lists(REPORTS, min_size=1, max_size=5),
    asks=st.lists(st.tuples(ASKS, st.lists(OFFERS, min_size=5, max_size=5)), max_size=14),
    pinned=st.sets(KEYS, max_size=1),
    least=st.dictionaries(KEYS, st.integers(1, 2), max_size=1),
)
def test_in_any_state_requests_go_where_the_rules_say(
    reports: list[HostReport],
    asks: list[tuple[Ask, list[Offer]]],
    pinned: set[str],
    least: Mapping[str, int],
) -> None:
    books, rules = Books("now"), Rules()
    books.attend("me")
    for host, said in zip(HOSTS, reports, strict=False):
        books.join(host, host[0], host)
        books.report(host, said)
        rules.nodes[host] = host[0]
        rules.reported(host, said)
    for key in pinned:
        books.pin("me", key, True)
        rules.pins.add(("me", key))
    for key, copies in least.items():
        books.claim("me", Wanted(key, key, {}, None, copies))
        rules.claims["me", key] = Wanted(key, key, {}, None, copies)
    for wanted, made in asks:
        offers = dict(zip(HOSTS, made, strict=True))
        expected = rules.decide(wanted, offers)
        route = books.route(wanted, offers, now=0.0)
        if not isinstance(route, Route):
            assert expected == (("unable",) if isinstance(route, Unable) else ("busy",))
            continue
        assert ("go", route.host, route.loads, route.evicts) == expected
        rules.routed(wanted, route.reservation, expected, offers[route.host].needed_bytes)
