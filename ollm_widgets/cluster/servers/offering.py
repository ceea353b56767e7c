"""Offers of hosts, asked for together and remembered for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ollm_widgets.cluster.messages import HostReport, Offer, Wanted
from ollm_widgets.errors import OllmError

# Free memory changes without a word.
_REMEMBERED_S = 2.0

# Calls a method of a host, and gives up after a while.
CallHost = Callable[..., Awaitable[Any]]


class Offers:
    """Asks hosts how they would run a model.

    Parameters
    ----------
    call
        Calls a method of a host.
    """

    def __init__(self, call: CallHost) -> None:
        self._call = call
        self._known: dict[tuple[str, str], tuple[float, Offer]] = {}
        self._held: dict[str, frozenset[str]] = {}

    async def of(self, hosts: Iterable[str], wanted: Wanted) -> dict[str, Offer]:
        """Return the offers of those that answer in time.

        Raises
        ------
        OllmError
            What all of them raised, such as for a config that cannot work.
        """
        hosts = tuple(hosts)
        answers = await asyncio.gather(
            *(self._one(host, wanted) for host in hosts), return_exceptions=True
        )
        offers = {
            host: answer
            for host, answer in zip(hosts, answers, strict=True)
            if isinstance(answer, Offer)
        }
        refusals = [cause for cause in map(_cause, answers) if isinstance(cause, OllmError)]
        if refusals and len(refusals) == len(hosts):
            raise refusals[0]
        return offers

    def heard(self, host: str, report: HostReport) -> None:
        """Forget the offers of a host that holds something else by now."""
        held = frozenset(copy.key for copy in report.held)
        if self._held.get(host) != held:
            self.forget(host)
            self._held[host] = held

    def forget(self, host: str) -> None:
        """Forget the offers of a host."""
        self._held.pop(host, None)
        for known in [known for known in self._known if known[0] == host]:
            del self._known[known]

    async def _one(self, host: str, wanted: Wanted) -> Offer:
        until, offer = self._known.get((host, wanted.key), (0.0, None))
        now = time.monotonic()
        if offer is not None and now < until:
            return offer
        made: Offer = await self._call("offer", host, wanted)
        for known in [known for known, (until, _made) in self._known.items() if until <= now]:
            del self._known[known]
        self._known[host, wanted.key] = (now + _REMEMBERED_S, made)
        return made


def _cause(answer: object) -> object:
    """Return the error that a host raised, out of Ray's wrapping."""
    return getattr(answer, "cause", answer)
