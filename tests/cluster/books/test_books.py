"""The registry's books: each transition alone. Any history of them: see `test_any_history`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollm_widgets.cluster.books.books import MOST_LOST, Books
from ollm_widgets.cluster.books.clients import OWN
from ollm_widgets.cluster.books.decisions import Busy, Go, OffersWanted, UnknownClientError
from ollm_widgets.cluster.messages import Ask, HeldCopy, HostReport, Offer, Route, Wanted


def wanted(key: str, copies: int = 0) -> Wanted:
    return Wanted(key, key.upper(), {}, None, copies)


def offer(needed_bytes: int = 1) -> Offer:
    # The rules look at no plan.
    plan: Any = None
    return Offer(plan, True, True, needed_bytes)


def copy(key: str, size: int = 1) -> HeldCopy:
    return HeldCopy(key, key.upper(), None, "ready", False, size, size)


def books_of(**held: str) -> Books:
    books = Books("now")
    books.attend("me")
    for host, keys in held.items():
        books.join(host, host, host)
        books.report(host, HostReport(1, tuple(map(copy, keys)), 10, 2))
    return books


def route(books: Books, key: str, *, client: str = "me") -> Route:
    offers = {host: offer() for host in books.hosts()}
    found = books.route(Ask(client, wanted(key)), offers, now=0.0)
    assert isinstance(found, Route)
    return found


def held(books: Books, at: int = 0) -> dict[str, str]:
    return {one.key: one.state for one in books.view().hosts[at].held}


def test_a_load_that_nobody_waits_for_is_given_up_and_nobody_leaves_for_it() -> None:
    books = books_of(x="ab")
    waiters = [route(books, "c"), route(books, "c")]
    assert held(books) == {"a": "leaving", "b": "ready"}
    books.release(waiters[0].reservation, now=0.0)
    assert books.view().hosts[0].loading == ("C",)
    books.release(waiters[1].reservation, now=0.0)
    assert books.view().hosts[0].loading == ()
    assert held(books) == {"a": "ready", "b": "ready"}


def test_what_has_left_for_a_load_may_come_back_while_that_goes_on() -> None:
    books = books_of(x="ab")
    first = route(books, "c")
    assert first.evicts == ("a",)
    books.report("x", HostReport(2, (copy("b"),), 10, 3))
    back = route(books, "a")
    assert back.loads
    assert back.evicts == ()
    books.report("x", HostReport(3, (copy("b"), copy("a")), 10, 3))
    assert held(books) == {"b": "ready", "a": "ready"}
    assert route(books, "c").evicts == ()


def test_a_report_from_before_the_end_of_a_load_does_not_bring_back_what_left() -> None:
    books = books_of(x="ab")
    route(books, "c")
    books.loaded("x", "c", 4)
    books.report("x", HostReport(3, (copy("a"), copy("b")), 10, 2))
    books.report("x", HostReport(4, (copy("b"),), 10, 2))
    assert held(books) == {"b": "ready", "c": "ready"}
    assert books.view().hosts[0].free_bytes == 10
    books.report("x", HostReport(5, (copy("c"),), 3, 2))
    assert held(books) == {"c": "ready"}


def test_news_from_before_a_report_say_nothing_any_more() -> None:
    books = books_of(x="a")
    route(books, "c")
    books.report("x", HostReport(5, (copy("a"),), 10, 2))
    books.loaded("x", "c", 4)
    assert books.view().hosts[0].loading == ("C",)
    books.gone("x", "a", 4)
    assert held(books) == {"a": "ready"}
    books.gone("x", "a", 5)
    assert held(books) == {}


def test_a_host_that_has_not_reported_takes_no_request_whatever_else_it_says() -> None:
    books = books_of()
    books.join("x", "x", "x")
    books.loaded("x", "a", 1)
    books.gone("x", "a", 1)
    asked = books.route(Ask("me", wanted("a")), now=0.0)
    assert isinstance(asked, Busy)
    assert asked.no_hosts


def test_who_gives_up_a_model_last_hears_where_it_may_be_unloaded() -> None:
    books = books_of(x="a", y="a", z="b")
    for client in ("me", "you", "they"):
        books.attend(client)
    books.claim("me", wanted("a"))
    books.claim("you", wanted("a"))
    books.pin("they", "a", True)
    assert books.give_up("me", "a") == ()
    assert books.give_up("you", "a") == ()
    books.pin("you", "a", True)
    route(books, "a", client="you")
    route(books, "a", client="they")
    assert books.give_up("they", "a") == ()
    assert books.give_up("you", "a") == ("x",)
    assert books.view().pinned == frozenset()


def test_a_client_takes_its_requests_pins_and_claims_along_and_leaves_models() -> None:
    books = books_of(x="a")
    books.pin("me", "a", True)
    books.claim("me", wanted("a", 1))
    reservation = route(books, "a").reservation
    assert books.leave("me")
    view = books.view()
    assert (view.clients, view.pinned, view.reservations) == ((), frozenset(), 0)
    assert held(books) == {"a": "ready"}
    assert not books.release(reservation, now=0.0)
    for late in (
        lambda: books.claim("me", wanted("a")),
        lambda: books.pin("me", "a", True),
        lambda: books.route(Ask("me", wanted("a")), now=0.0),
    ):
        with pytest.raises(UnknownClientError):
            late()


def test_a_reservation_of_a_registry_that_has_ended_is_unknown_to_the_next() -> None:
    old, new = Books("old"), books_of(x="a")
    old.attend("me")
    old.join("x", "x", "x")
    old.report("x", HostReport(1, (copy("a"),), 1))
    reservation = route(old, "a").reservation
    route(new, "a")
    assert not new.release(reservation, now=0.0)
    assert new.view().reservations == 1


def test_a_model_is_idle_when_its_last_request_has_ended_before_its_host_says_so() -> None:
    books = books_of(x="ab")
    books.pin("me", "b", True)
    first, second = route(books, "a"), route(books, "a")
    busy = replace(copy("a"), busy=True)
    books.report("x", HostReport(2, (busy, copy("b")), 10, 2))

    def makes_room() -> bool:
        decision = books.decide(Ask("me", wanted("c")), {"x": offer()})
        return isinstance(decision, Go)

    books.release(first.reservation, now=0.0)
    assert not makes_room()
    books.release(second.reservation, now=0.0)
    assert makes_room()
    books.report("x", HostReport(3, (busy, copy("b")), 10, 2))
    assert not makes_room()


def test_to_decide_reserves_nothing() -> None:
    books = books_of(x="a")
    before = books.view()
    assert books.decide(Ask("you", wanted("a"))) == books.decide(Ask("you", wanted("a")))
    assert isinstance(books.decide(Ask("you", wanted("b"))), OffersWanted)
    assert books.view() == before


def test_a_copy_is_lacking_until_one_is_on_its_way() -> None:
    books = books_of(x="a", y="", z="")
    assert not books.lacks(wanted("a", 1))
    assert books.lacks(wanted("a", 2))
    books.route(Ask(OWN, wanted("a"), adds=True), {"y": offer()}, now=0.0)
    assert not books.lacks(wanted("a", 3))
    books.loaded("y", "a", 1)
    assert books.lacks(wanted("a", 3))
    # There are three hosts.
    books.drop("z", "It died.")
    assert not books.lacks(wanted("a", 3))


def test_the_last_hosts_that_were_lost_are_named() -> None:
    books = books_of()
    for number in range(MOST_LOST + 1):
        books.join(f"x{number}", "x", f"node {number}")
        assert books.drop(f"x{number}", "It died.")
    lost = books.view().lost
    assert len(lost) == MOST_LOST
    assert lost[-1] == (f"node {MOST_LOST}", "It died.")


def test_the_time_to_try_again_is_what_requests_have_taken() -> None:
    books = books_of(x="a")

    def retry_after_s() -> float:
        refused = books.route(Ask("me", wanted("b"), avoid=frozenset("x")), now=0.0)
        assert isinstance(refused, Busy)
        return refused.retry_after_s

    def requests_take(seconds: float) -> None:
        for _ in range(50):
            books.release(route(books, "a").reservation, now=seconds)

    requests_take(3.0)
    assert retry_after_s() == pytest.approx(3.0, rel=0.01)
    requests_take(0.001)
    assert retry_after_s() == 0.2
    requests_take(9999.0)
    assert retry_after_s() == 5.0
