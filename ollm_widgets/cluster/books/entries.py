"""Entries of the registry's books: models in memory, loads under way, and requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from ollm_widgets.cluster.messages import HeldCopy

# The state of a model that leaves, whether the books or the host's own manager let it go.
LEAVING = "leaving"


@dataclass(slots=True, eq=False)
class Copy:
    """A model in a host's memory, and what the books know of its use.

    Parameters
    ----------
    held
        As its host says.
    turn
        Grows with each use anywhere: the smaller, the longer ago it was used.
    evicted
        Whether it makes room for a load under way.
    """

    held: HeldCopy
    turn: int
    evicted: bool = False

    @property
    def leaves(self) -> bool:
        """Whether no request may be sent to it any more."""
        return self.evicted or self.held.state == LEAVING


@dataclass(slots=True, eq=False)
class Coming:
    """A load under way.

    Parameters
    ----------
    key, name, group
        As wanted.
    needed_bytes
        What it takes of the place that matters on its host, as offered.
    evicts
        Keys of what is still there and leaves for it.
    turn
        As of a copy.
    waiters
        Reservations that wait for it; without any it is given up.
    """

    key: str
    name: str
    group: str | None
    needed_bytes: int
    evicts: tuple[str, ...]
    turn: int = 0
    waiters: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The place of one request on a host.

    Parameters
    ----------
    id, client, host, key
        Its own name; who asked; where; for which model.
    began
        When it was made, in seconds of the registry's clock.
    """

    id: str
    client: str
    host: str
    key: str
    began: float
