"""Who is there, which models each uses, and which each keeps in memory."""

from __future__ import annotations

from ollm_widgets.cluster.books.decisions import UnknownClientError
from ollm_widgets.cluster.messages import Wanted

# The client whose loads are the registry's own; it is always there.
OWN = ""


class Clients:
    """Clients, their claims, and their pins, which go with them.

    A claim says that a client uses a model: who gives it up last lets it leave. It keeps nothing
    in memory: an idle model that is claimed makes room for others, and the next request loads it
    again. A pin does keep it, and so does the least number of copies that a claim asks for.
    """

    def __init__(self) -> None:
        self._claims: dict[str, dict[str, Wanted]] = {}
        self._pins: dict[str, set[str]] = {}

    def names(self) -> tuple[str, ...]:
        """Return who is there, in the order in which they came."""
        return tuple(self._claims)

    def attend(self, client: str) -> None:
        """Note a client; one that is there stays."""
        self._claims.setdefault(client, {})
        self._pins.setdefault(client, set())

    def attends(self, client: str) -> bool:
        """Whether a client is there."""
        return client == OWN or client in self._claims

    def leave(self, client: str) -> bool:
        """Forget a client; returns whether it was there."""
        self._pins.pop(client, None)
        return self._claims.pop(client, None) is not None

    def claim(self, client: str, wanted: Wanted) -> None:
        """Note that a client uses a model; the last claim of it counts."""
        self._known(client)[wanted.key] = wanted

    def give_up(self, client: str, key: str) -> bool:
        """Forget a claim, and a pin; returns whether nobody claims or pins it any more."""
        self._claims.get(client, {}).pop(key, None)
        self._pins.get(client, set()).discard(key)
        claimed = any(key in wanted for wanted in self._claims.values())
        return not claimed and key not in self.pinned()

    def pin(self, client: str, key: str, pinned: bool) -> None:
        """Keep a model from making room, or allow it as far as this client goes."""
        self._known(client)
        (self._pins[client].add if pinned else self._pins[client].discard)(key)

    def pinned(self) -> frozenset[str]:
        """Return what somebody has pinned."""
        return frozenset().union(*self._pins.values())

    def least(self) -> dict[str, int]:
        """Return on how many hosts each claimed model stays at least."""
        least: dict[str, int] = {}
        for claims in self._claims.values():
            for key, wanted in claims.items():
                least[key] = max(least.get(key, 0), wanted.copies)
        return least

    def check(self, client: str) -> None:
        """See that a client is there.

        Raises
        ------
        UnknownClientError
            If it is not.
        """
        if not self.attends(client):
            raise UnknownClientError(
                f"The cluster does not know client {client!r}.", hint="It has to attend again."
            )

    def _known(self, client: str) -> dict[str, Wanted]:
        self.check(client)
        return self._claims.setdefault(client, {})
