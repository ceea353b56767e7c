"""What this process uses of a cluster, told again to a registry that has forgotten it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ollm_widgets.cluster.messages import Wanted


@dataclass(slots=True)
class _Claim:
    wanted: Wanted
    users: int = 0
    pinned: bool = False


class Claims:
    """Models by key, with how many runtimes of this process use each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[str, _Claim] = {}

    def add(self, wanted: Wanted) -> None:
        """Count one more who uses it."""
        with self._lock:
            self._claims.setdefault(wanted.key, _Claim(wanted)).users += 1

    def drop(self, key: str) -> bool:
        """Count one fewer; whether it was the last."""
        with self._lock:
            claim = self._claims.get(key)
            if claim is None:
                return False
            claim.users -= 1
            if claim.users == 0:
                del self._claims[key]
            return claim.users == 0

    def pin(self, key: str, pinned: bool) -> None:
        """Note whether it is pinned."""
        with self._lock:
            if key in self._claims:
                self._claims[key].pinned = pinned

    def all(self) -> tuple[tuple[Wanted, bool], ...]:
        """Every model that is used, and whether it is pinned."""
        with self._lock:
            return tuple((claim.wanted, claim.pinned) for claim in self._claims.values())

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._claims.clear()
