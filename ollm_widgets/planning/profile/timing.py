"""How long work takes on this machine when nothing disturbs it."""

from __future__ import annotations

import time
from collections.abc import Callable

_LEAST_RUNS = 3


def shortest_s(work: Callable[[], object], within_s: float) -> float:
    """Return the shortest of several runs in seconds, above zero.

    Parameters
    ----------
    within_s
        Runs begin for as long, and three in any case: what else runs here slows some of them.
    """
    begin = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < _LEAST_RUNS or time.perf_counter() - begin < within_s:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return max(min(seconds), 1e-9)
