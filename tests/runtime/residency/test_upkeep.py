from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.runtime.residency.surroundings import MemoryLevel, Plea
from ollm_widgets.runtime.residency.upkeep import (
    TICK_S,
    AnswerPlea,
    CancelBusy,
    Demote,
    Unload,
    Watched,
    due,
)

GPU, RAM = "cuda:0", "ram"
OPTIONS = ResidencyOptions(idle_timeout_s=100.0, busy_timeout_s=0.0, pressure=0.9)
ROOMY = {GPU: MemoryLevel(GPU, 1000, 500), RAM: MemoryLevel(RAM, 1000, 800)}
GPU_FULL = ROOMY | {GPU: MemoryLevel(GPU, 1000, 50)}
RAM_FULL = ROOMY | {RAM: MemoryLevel(RAM, 1000, 50)}
ON_GPU = Watched("a", "a", 0.0, turn=1, held={GPU: 300, RAM: 5}, demotable=True)
ON_CPU = Watched("c", "c", 0.0, turn=1, held={RAM: 300})
PLEA = Plea("1", 42, "other.ipynb", GPU, 400)


def actions_at(now, *residents, levels=ROOMY, pleas=(), options=OPTIONS, relieves=True):
    """What is done to whom, without its words."""
    actions, _ = due(now, residents, levels, pleas, options, relieves=relieves)
    return [(type(each), getattr(each, "id", None) or each.ids) for each in actions]


# ------------------------------------------------------------------ idle


def test_an_idle_one_is_demoted_at_its_time_and_unloaded_when_it_has_passed_again() -> None:
    assert actions_at(99.9, ON_GPU) == []
    assert actions_at(100.0, ON_GPU) == [(Demote, "a")]
    demoted = replace(ON_GPU, state="demoted", held={RAM: 305})
    assert actions_at(199.9, demoted) == []
    assert actions_at(200.0, demoted) == [(Unload, "a")]


def test_what_cannot_be_demoted_is_unloaded_at_the_first_time() -> None:
    assert actions_at(100.0, ON_CPU) == [(Unload, "c")]
    assert actions_at(100.0, ON_GPU, options=replace(OPTIONS, demotes=False)) == [(Unload, "a")]
    assert actions_at(100.0, ON_GPU, levels=RAM_FULL, relieves=False) == [(Unload, "a")]


def test_two_that_do_not_fit_into_host_memory_together_do_not_both_go_there() -> None:
    ram = {RAM: MemoryLevel(RAM, 1000, 500)}
    later = replace(ON_GPU, id="b", turn=2)
    assert actions_at(100.0, later, ON_GPU, levels=ram) == [(Demote, "a"), (Unload, "b")]


def test_who_slept_through_both_times_unloads_at_once() -> None:
    assert actions_at(1000.0, ON_GPU) == [(Unload, "a")]


def test_without_an_idle_timeout_nothing_goes_for_being_idle() -> None:
    actions, next_at = due(1e9, [ON_GPU], ROOMY, (), replace(OPTIONS, idle_timeout_s=0))
    assert (actions, next_at) == ((), 1e9 + TICK_S)


@pytest.mark.parametrize(
    "kept",
    [
        {"pinned": True},
        {"in_use": True},
        {"state": "demoting"},
        {"state": "returning"},
        {"state": "leaving"},
        {"not_before": 501.0},
    ],
)
def test_who_is_pinned_in_use_moving_or_left_alone_stays(kept: dict[str, object]) -> None:
    resident = replace(ON_GPU, **kept)
    full = GPU_FULL | RAM_FULL
    assert actions_at(500.0, resident, levels=full, pleas=[PLEA]) == [(AnswerPlea, ())]


def test_the_words_say_how_long_it_was_unused() -> None:
    (action,), _ = due(900.0, [ON_CPU], ROOMY, (), replace(OPTIONS, idle_timeout_s=900.0))
    assert action == Unload("c", "unused for 15 min")


# ------------------------------------------------------------------ busy


def test_a_request_that_runs_too_long_is_cancelled_even_in_a_pinned_one() -> None:
    options = replace(OPTIONS, busy_timeout_s=10.0)
    busy = replace(ON_GPU, in_use=True, pinned=True, running_since=100.0)
    actions, next_at = due(108.0, [busy], ROOMY, (), options)
    assert (actions, next_at) == ((), 110.0)
    assert actions_at(110.0, busy, options=options) == [(CancelBusy, "a")]
    assert actions_at(1e6, busy) == []


def test_a_request_that_begins_between_two_looks_is_found_when_it_has_run_too_long() -> None:
    options = replace(OPTIONS, busy_timeout_s=0.3)
    assert due(50.0, [ON_GPU], ROOMY, (), options) == ((), 50.3)
    assert due(50.0, [ON_GPU], ROOMY, (), replace(OPTIONS, busy_timeout_s=60.0)) == ((), 53.0)
    assert due(50.0, [], ROOMY, (), options) == ((), None)


def test_a_lease_without_a_request_is_not_cancelled() -> None:
    options = replace(OPTIONS, busy_timeout_s=10.0)
    assert actions_at(1e6, replace(ON_GPU, in_use=True), options=options) == []


# ------------------------------------------------------------------ pressure


def test_a_full_gpu_moves_its_least_recently_used_to_host_memory() -> None:
    older, newer = replace(ON_GPU, id="old", turn=1), replace(ON_GPU, id="new", turn=2)
    assert actions_at(1.0, newer, older, levels=GPU_FULL) == [(Demote, "old")]


def test_only_who_holds_bytes_there_goes() -> None:
    older = replace(ON_CPU, turn=0)
    assert actions_at(1.0, older, ON_GPU, levels=GPU_FULL) == [(Demote, "a")]
    elsewhere = {"cuda:1": MemoryLevel("cuda:1", 1000, 0)}
    assert actions_at(1.0, older, ON_GPU, levels=ROOMY | elsewhere) == []


def test_with_host_memory_full_too_it_is_unloaded() -> None:
    tight = {GPU: MemoryLevel(GPU, 1000, 0), RAM: MemoryLevel(RAM, 1000, 399)}
    assert actions_at(1.0, ON_GPU, levels=tight) == [(Unload, "a")]
    assert actions_at(1.0, ON_GPU, levels=tight | {RAM: MemoryLevel(RAM, 1000, 400)}) == [
        (Demote, "a")
    ]


def test_full_host_memory_unloads_demoted_ones_too() -> None:
    demoted = replace(ON_GPU, state="demoted", held={RAM: 305})
    (action,), _ = due(1.0, [demoted], RAM_FULL, (), OPTIONS)
    assert action == Unload("a", "RAM was 95 % full")


def test_the_fullest_memory_comes_first_and_one_goes_at_a_time() -> None:
    levels = {GPU: MemoryLevel(GPU, 1000, 50), RAM: MemoryLevel(RAM, 1000, 10)}
    assert actions_at(1.0, ON_GPU, replace(ON_CPU, turn=2), levels=levels) == [(Unload, "a")]


def test_what_an_idle_one_gives_back_may_be_enough() -> None:
    idle, recent = ON_GPU, replace(ON_GPU, id="b", last_used=99.0, turn=2)
    assert actions_at(100.0, idle, recent, levels=GPU_FULL) == [(Demote, "a")]


def test_exactly_the_share_is_not_too_full_and_zero_is_never() -> None:
    at_the_share = {GPU: MemoryLevel(GPU, 1000, 100)}
    assert actions_at(1.0, ON_GPU, levels=at_the_share) == []
    assert actions_at(1.0, ON_GPU, levels=GPU_FULL, options=replace(OPTIONS, pressure=0)) == []
    assert actions_at(1.0, ON_GPU, levels=GPU_FULL, relieves=False) == []


# ------------------------------------------------------------------ other kernels


def test_a_request_gets_idle_ones_until_it_has_enough() -> None:
    residents = [replace(ON_GPU, id=str(n), turn=n) for n in (3, 1, 2)]
    assert actions_at(1.0, *residents, pleas=[PLEA]) == [
        (Demote, "1"),
        (Demote, "2"),
        (AnswerPlea, ("1", "2")),
    ]


def test_a_request_for_host_memory_unloads() -> None:
    plea = replace(PLEA, place=RAM, needed_bytes=5)
    actions, _ = due(1.0, [ON_GPU], ROOMY, [plea], OPTIONS)
    assert actions == (Unload("a", "other.ipynb asked for under 1 MiB"), AnswerPlea(plea, ("a",)))


def test_two_requests_do_not_count_the_same_runtime_twice() -> None:
    other = replace(PLEA, id="2", asker_pid=43)
    assert actions_at(1.0, ON_GPU, pleas=[PLEA, other]) == [
        (Demote, "a"),
        (AnswerPlea, ("a",)),
        (AnswerPlea, ()),
    ]


def test_with_nothing_in_memory_there_is_nothing_to_look_at() -> None:
    assert due(1.0, [], {}, [], OPTIONS) == ((), None)


# ------------------------------------------------------------------ whatever comes

TIMES = st.integers(0, 400).map(float)
PLACES = st.sampled_from([GPU, "cuda:1", RAM])
HELD = st.dictionaries(PLACES, st.integers(0, 500))
RESIDENTS = st.lists(
    st.builds(
        Watched,
        id=st.sampled_from("abcdef"),
        name=st.just("x"),
        last_used=TIMES,
        state=st.sampled_from(["ready", "ready", "demoted", "demoting", "returning", "leaving"]),
        pinned=st.booleans(),
        in_use=st.booleans(),
        turn=st.integers(0, 9),
        held=HELD,
        demotable=st.booleans(),
        running_since=st.none() | TIMES,
        not_before=TIMES,
    ),
    max_size=6,
    unique_by=lambda each: each.id,
)
LEVELS = st.dictionaries(PLACES, st.tuples(st.integers(0, 1000), st.integers(0, 1000))).map(
    lambda found: {place: MemoryLevel(place, max(two), min(two)) for place, two in found.items()}
)
PLEAS = st.lists(
    st.builds(Plea, st.sampled_from("123"), st.just(1), st.just("x"), PLACES, st.integers(0, 900)),
    max_size=3,
    unique_by=lambda each: each.id,
)
ALL_OPTIONS = st.builds(
    ResidencyOptions,
    idle_timeout_s=st.sampled_from([0.0, 50.0, 100.0]),
    busy_timeout_s=st.sampled_from([0.0, 30.0]),
    pressure=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    demotes=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(TIMES, RESIDENTS, LEVELS, PLEAS, ALL_OPTIONS)
def test_nobody_who_must_stay_goes_and_nobody_goes_twice(now, residents, levels, pleas, options):
    actions, next_at = due(now, residents, levels, pleas, options)
    by_id = {each.id: each for each in residents}
    gone = [each.id for each in actions if isinstance(each, Demote | Unload)]
    assert len(gone) == len(set(gone))
    for each in map(by_id.get, gone):
        assert not each.pinned
        assert not each.in_use
        assert each.state in ("ready", "demoted")
        assert each.not_before <= now
    for action in actions:
        if isinstance(action, Demote):
            assert options.demotes
            assert by_id[action.id].demotable
            assert by_id[action.id].state == "ready"
        if isinstance(action, CancelBusy):
            assert by_id[action.id].running_since + options.busy_timeout_s <= now
    # Each request is answered once, after those that go for it.
    answers = [each for each in actions if isinstance(each, AnswerPlea)]
    assert [each.plea for each in answers] == pleas
    assert tuple(answers) == actions[len(actions) - len(answers) :]
    assert {id for each in answers for id in each.ids} <= set(gone)
    assert (next_at is None) == (not residents)
    assert next_at is None or next_at > now


@settings(max_examples=200, deadline=None)
@given(TIMES, RESIDENTS, LEVELS, ALL_OPTIONS)
def test_at_most_one_goes_for_a_memory_that_is_too_full(now, residents, levels, options) -> None:
    without, _ = due(now, residents, levels, (), options, relieves=False)
    with_it, _ = due(now, residents, levels, (), options)
    extra = [each for each in with_it if each not in without]
    assert [each for each in with_it if each in without] == list(without)
    assert len(extra) <= 1
    for each in extra:
        full = [level.place for level in levels.values() if level.used_share > options.pressure]
        (resident,) = (one for one in residents if one.id == each.id)
        places = [place for place in full if resident.held.get(place)]
        assert places
        if isinstance(each, Demote):
            assert places != [RAM]
        older = [
            one
            for one in residents
            if one.turn < resident.turn and one.may_go(now) and one.id not in _ids(without)
        ]
        assert not any(all(one.held.get(place) for place in full) for one in older)


def _ids(actions):
    return {getattr(each, "id", None) for each in actions}


@settings(max_examples=150, deadline=None)
@given(RESIDENTS, ALL_OPTIONS)
def test_idle_ones_go_at_exactly_their_time_when_it_is_looked_at_when_told(
    residents, options
) -> None:
    """Follow `next_at` alone, and do what it says: nobody goes a moment early or late."""
    now, alive = 0.0, {each.id: each for each in residents}
    went: dict[tuple[str, type], float] = {}
    for _ in range(600):
        actions, next_at = due(now, list(alive.values()), {}, (), options)
        for action in actions:
            if isinstance(action, CancelBusy):
                continue
            went[action.id, type(action)] = now
            if isinstance(action, Unload):
                del alive[action.id]
            else:
                alive[action.id] = replace(alive[action.id], state="demoted")
        if next_at is None or next_at > 800:
            break
        now = next_at
    timeout_s = options.idle_timeout_s
    expected = {}
    for each in residents:
        if not timeout_s or each.pinned or each.in_use or each.state not in ("ready", "demoted"):
            continue
        first_at, last_at = each.last_used + timeout_s, each.last_used + 2 * timeout_s
        demotes = options.demotes and each.demotable and each.state == "ready"
        if demotes and max(first_at, each.not_before) < last_at:
            expected[each.id, Demote] = max(first_at, each.not_before)
            expected[each.id, Unload] = max(last_at, each.not_before)
        else:
            at = last_at if each.state == "demoted" or demotes else first_at
            expected[each.id, Unload] = max(at, each.not_before)
    assert went == expected
