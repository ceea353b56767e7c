"""Offers are asked for together, remembered for a moment, and forgotten with what was held."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from ollm_widgets.cluster.messages import HeldCopy, HostReport, Offer, Wanted
from ollm_widgets.cluster.servers.offering import Offers
from ollm_widgets.errors import ConfigError

WANTED = Wanted("key", "name", {})


class Asked:
    """Hosts that answer with an offer, or fail."""

    def __init__(self, failing: dict[str, Exception] | None = None) -> None:
        self.calls: list[str] = []
        self._failing = failing or {}

    async def __call__(self, method: str, host: str, wanted: Wanted) -> Offer:
        assert (method, wanted) == ("offer", WANTED)
        self.calls.append(host)
        if host in self._failing:
            raise self._failing[host]
        return Offer(cast("Any", None), runs=True, fits=True)


def _holding(*keys: str) -> HostReport:
    return HostReport(1, tuple(HeldCopy(key, key, None, "ready", False) for key in keys), 0)


def test_hosts_are_asked_once_in_a_moment() -> None:
    asked = Asked()
    offers = Offers(asked)
    for _ in range(3):
        assert set(asyncio.run(offers.of("ab", WANTED))) == {"a", "b"}
    assert sorted(asked.calls) == ["a", "b"]


def test_a_host_that_holds_something_else_is_asked_again() -> None:
    asked = Asked()
    offers = Offers(asked)
    offers.heard("a", _holding("x"))
    asyncio.run(offers.of("ab", WANTED))
    offers.heard("a", _holding("x"))
    asyncio.run(offers.of("ab", WANTED))
    assert sorted(asked.calls) == ["a", "b"]
    offers.heard("a", _holding("x", "y"))
    asyncio.run(offers.of("ab", WANTED))
    assert sorted(asked.calls) == ["a", "a", "b"]


def test_a_host_that_does_not_answer_is_left_out() -> None:
    offers = Offers(Asked({"b": TimeoutError(), "c": ConfigError("dtype", "is odd.")}))
    assert set(asyncio.run(offers.of("abc", WANTED))) == {"a"}


def test_what_all_hosts_refuse_is_an_error() -> None:
    refusal = ConfigError("dtype", "is odd.")
    offers = Offers(Asked({"a": refusal, "b": ConfigError("dtype", "is odd.")}))
    with pytest.raises(ConfigError, match="is odd"):
        asyncio.run(offers.of("ab", WANTED))


def test_no_hosts_make_no_offers() -> None:
    assert asyncio.run(Offers(Asked()).of((), WANTED)) == {}
