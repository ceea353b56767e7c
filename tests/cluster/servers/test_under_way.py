"""What a host works on for its clients is ended in order, and told apart by who asked."""

from __future__ import annotations

from functools import partial

from ollm_widgets.cluster.servers.under_way import UnderWay


def test_of_a_client_that_is_gone_the_newest_work_ends_first() -> None:
    under_way = UnderWay()
    ended: list[str] = []
    with (
        under_way.work("answer", "first", "gone") as first,
        under_way.work("answer", "second", "gone") as second,
        under_way.work("answer", "third", "here") as third,
    ):
        for work in (first, second, third):
            work.cancel.set = partial(ended.append, work.reservation)  # type: ignore[method-assign]
        assert under_way.abandon("gone") == 2
        assert ended == ["second", "first"]


def test_a_call_that_comes_twice_ends_the_one_that_nobody_reads() -> None:
    under_way = UnderWay()
    with (
        under_way.work("answer", "same", "client") as earlier,
        under_way.work("answer", "same", "client") as later,
        under_way.work("load", "same", "client") as other,
    ):
        assert [one.cancel.is_set() for one in (earlier, later, other)] == [True, False, False]


def test_work_that_has_ended_is_not_stopped() -> None:
    under_way = UnderWay()
    with under_way.work("load", "one", "client") as work:
        assert not under_way.stop("another")
        assert under_way.stop("one")
        assert work.cancel.is_set()
    assert not under_way.stop("one")
