"""Loads that failed a moment ago, and for how long they are not tried again."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from ollm_widgets.errors import CoolDownError
from ollm_widgets.runtime.residency.failing import as_sentence

FIRST_S = 10.0
LONGEST_S = 300.0
# A key that has not failed for so long begins anew.
_FORGOTTEN_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class _Failure:
    text: str
    at: float
    pause_s: float


class CoolDowns:
    """Pauses that double with each failure of the same request by the same backend.

    It has no lock of its own. Times are of the caller's clock, in seconds.
    """

    def __init__(self) -> None:
        self._failures: dict[tuple[Hashable, str], _Failure] = {}

    def failed(self, key: Hashable, backend: str, text: str, now: float) -> None:
        """Begin a pause, twice as long as the last one."""
        for each, known in tuple(self._failures.items()):
            if now - known.at > _FORGOTTEN_AFTER_S:
                del self._failures[each]
        before = self._failures.get((key, backend))
        pause_s = FIRST_S if before is None else min(2 * before.pause_s, LONGEST_S)
        self._failures[key, backend] = _Failure(text, now, pause_s)

    def seconds_left(self, key: Hashable, backend: str, now: float) -> float:
        """Return how long until it is tried again; 0 when it may be tried."""
        failure = self._failures.get((key, backend))
        return 0.0 if failure is None else max(failure.at + failure.pause_s - now, 0.0)

    def check(self, key: Hashable, backend: str, name: str, now: float) -> None:
        """Refuse what failed a moment ago.

        Raises
        ------
        CoolDownError
            With the time left, and what was said then.
        """
        left_s = self.seconds_left(key, backend, now)
        if left_s > 0:
            text = self._failures[key, backend].text
            raise CoolDownError(
                f"Loading {name} failed {now - self._failures[key, backend].at:.0f} s ago: "
                f"{as_sentence(text)}",
                seconds_left=left_s,
                hint=f"Try again in {math.ceil(left_s)} s, or at once with retry=True.",
            )

    def forget(self, key: Hashable) -> None:
        """End the pauses of a request: it succeeded, or somebody insists."""
        for each in [each for each in self._failures if each[0] == key]:
            del self._failures[each]
