from __future__ import annotations

from collections.abc import Hashable

import pytest

from tests.runtime.residency.worlds import Chance, Rules, World


def explored(rules: Rules) -> tuple[dict[Hashable, list[Hashable]], set[Hashable]]:
    """Take every step in every order; return what has to follow each state, and who waits there."""
    start = World.new(rules)
    todo, must = [start], {}
    must[start.fingerprint()] = []
    waiting: set[Hashable] = set()
    while todo:
        world = todo.pop()
        world.check()
        here = world.fingerprint()
        if world.somebody_waits:
            waiting.add(here)
        for step, has_to in world.steps():
            after = world.after(step)
            there = after.fingerprint()
            if there not in must:
                must[there] = []
                todo.append(after)
            if has_to:
                must[here].append(there)
    return must, waiting


def check_progress(must: dict[Hashable, list[Hashable]], waiting: set[Hashable]) -> None:
    """Whoever waits gets on, in whatever order things happen that have to happen.

    From no state do those steps lead back to it, so they come to an end; and where they end,
    nobody waits.
    """
    ends = [state for state in waiting if not must[state]]
    assert not ends, f"deadlock: {ends[0]}"
    before: dict[Hashable, int] = dict.fromkeys(must, 0)
    for follows in must.values():
        for there in follows:
            before[there] += 1
    ready = [state for state, count in before.items() if not count]
    done = 0
    while ready:
        state = ready.pop()
        done += 1
        for there in must[state]:
            before[there] -= 1
            if not before[there]:
                ready.append(there)
    circle = [state for state, count in before.items() if count]
    assert done == len(must), f"somebody may go round for ever: {circle[:1]}"


def chances(*names: Chance) -> frozenset[Chance]:
    return frozenset(names)


@pytest.mark.parametrize(
    ("rules", "states"),
    [
        pytest.param(Rules(1, chances("cancel", "fail")), 19_055, id="one runtime"),
        pytest.param(Rules(2, chances("cancel", "pin"), callers=2), 8_494, id="pins"),
        pytest.param(Rules(2, chances("unload", "fail"), callers=2), 2_035, id="unloads"),
        pytest.param(Rules(2, chances("force"), callers=2), 1_927, id="forced unloads"),
        pytest.param(Rules(2, chances("request"), callers=2), 1_153, id="unleased requests"),
        pytest.param(
            Rules(None, chances("cancel"), groups=(("a", "g"), ("b", "g"))), 14_051, id="groups"
        ),
        pytest.param(
            Rules(None, chances("fail"), gpu_bytes=4, ram_bytes=2, size_bytes=2, callers=2),
            3_223,
            id="bytes for two",
        ),
        pytest.param(
            Rules(2, chances("demote"), gpu_bytes=2, ram_bytes=9, size_bytes=2, callers=2),
            1_912,
            id="demotions by hand",
        ),
        pytest.param(
            Rules(2, chances(), gpu_bytes=2, ram_bytes=9, size_bytes=2), 5_011, id="bytes for one"
        ),
        pytest.param(Rules(1, chances("pin"), callers=2, anyway=True), 1_933, id="anyway"),
    ],
)
def test_in_every_order_whoever_waits_gets_on_and_nothing_leaves_under_a_lease(
    rules: Rules, states: int
) -> None:
    must, waiting = explored(rules)
    check_progress(must, waiting)
    # As many as there are: fewer would be a step that can no longer happen.
    assert len(must) == states
