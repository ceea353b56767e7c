"""An edit of a plan is answered while a person looks at it."""

from __future__ import annotations

import sys

import pytest

from ollm_widgets.planning.ids import OffloadPolicy
from tests.planning.search.layers import ROOMS, hundreds, place

# Calls of functions, which are the same on each machine: 50 ms on a core of 3 GHz, where
# tests/bench/plan_search.py takes the time.
MOST_CALLS = 330_000


@pytest.mark.parametrize("policy", ["auto", "prefix"])
@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("name", hundreds())
def test_a_hundred_layers_are_placed_in_few_steps(
    name: str, room: tuple[float, float], policy: OffloadPolicy
) -> None:
    sizes = hundreds()[name]
    calls = 0

    def count(_frame: object, event: str, _about: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        place(sizes, room, policy)
    finally:
        sys.setprofile(before)
    assert 1_000 < calls < MOST_CALLS
