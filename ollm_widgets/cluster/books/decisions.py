"""Where a request goes, or why it cannot go anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ollm_widgets.errors import OllmError


class UnknownClientError(OllmError):
    """The registry does not know the client, which has to attend again."""

    code: ClassVar[str] = "unknown-client"


@dataclass(frozen=True, slots=True)
class Go:
    """It goes to a host.

    Parameters
    ----------
    host
        Which.
    loads
        Whether the model is not in memory there yet.
    evicts
        Keys of what has to leave before, the least recently used first.
    why
        Why there, in a sentence.
    needed_bytes
        What a load that begins with it takes there.
    """

    host: str
    loads: bool
    evicts: tuple[str, ...]
    why: str
    needed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OffersWanted:
    """Nobody holds the model: these hosts have to say how they would run it."""

    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Busy:
    """No host can take it now.

    Parameters
    ----------
    message, hint
        Who holds what, and what to do.
    retry_after_s
        When it may be worth asking again.
    holders
        What each host holds and why it stays, one string each.
    no_hosts
        Whether there is no host at all, so that one has to be started.
    """

    message: str
    hint: str
    retry_after_s: float
    holders: tuple[str, ...] = ()
    no_hosts: bool = False


@dataclass(frozen=True, slots=True)
class Unable:
    """No host can ever run it.

    Parameters
    ----------
    message
        What each node says.
    refusals
        Node and reason of each host.
    """

    message: str
    refusals: tuple[tuple[str, str], ...]


Decision = Go | OffersWanted | Busy | Unable
