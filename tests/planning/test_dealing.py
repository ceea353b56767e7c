from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.dealing import (
    Hands,
    cut_in_runs,
    deal,
    kept_by_each,
    least_streamed,
    share_out,
)
from ollm_widgets.planning.ids import OffloadPolicy

layer_lists = st.lists(st.integers(1, 100), min_size=1, max_size=40)
rooms = st.lists(st.integers(0, 2000), min_size=1, max_size=5)
policies = st.sampled_from(get_args(OffloadPolicy))


def all_of(hands: Hands) -> list[int]:
    return sorted(index for hand in hands for index in hand)


@given(layer_lists, rooms)
def test_runs_follow_each_other_and_fit(layers: list[int], rooms: list[int]) -> None:
    runs = cut_in_runs(layers, rooms)
    if runs is None:
        filled = 0
        for room in rooms:
            left = room
            while filled < len(layers) and layers[filled] <= left:
                left -= layers[filled]
                filled += 1
        assert filled < len(layers)
        return
    assert [index for run in runs for index in run] == list(range(len(layers)))
    for run, room in zip(runs, rooms, strict=True):
        assert sum(layers[index] for index in run) <= room or not run


def test_runs_leave_the_same_room_on_each_device() -> None:
    assert cut_in_runs([10] * 12, [100, 100]) == (tuple(range(6)), tuple(range(6, 12)))
    assert cut_in_runs([10] * 12, [100, 60]) == (tuple(range(8)), tuple(range(8, 12)))
    assert cut_in_runs([10] * 12, [60, 50]) is None


@given(layer_lists, st.lists(st.integers(0, 10), min_size=1, max_size=5), policies)
def test_each_layer_is_dealt_to_one_device(
    layers: list[int], kept: list[int], policy: OffloadPolicy
) -> None:
    layers += [50] * max(sum(kept) - len(layers), 0)
    hands = deal(layers, kept, policy)
    assert all_of(hands) == list(range(len(layers)))
    assert all(list(hand) == sorted(hand) for hand in hands)
    assert all(len(hand) >= count for hand, count in zip(hands, kept, strict=True))


@given(st.integers(1, 60), st.lists(st.integers(0, 10), min_size=2, max_size=4), policies)
def test_layers_of_one_size_that_stream_take_turns(
    passing: int, kept: list[int], policy: OffloadPolicy
) -> None:
    hands = deal([100] * (passing + sum(kept)), kept, policy)
    streamed = [len(hand) - count for hand, count in zip(hands, kept, strict=True)]
    assert max(streamed) - min(streamed) <= 1
    if not any(kept):
        assert all(len(set(pairwise(hand))) == len(hand) - 1 for hand in hands if hand)
        assert all(late - early == len(kept) for hand in hands for early, late in pairwise(hand))


def test_layers_that_stay_come_in_runs_beside_those_that_take_turns() -> None:
    assert deal([1] * 10, [2, 4], "auto") == ((0, 1, 6, 8), (2, 3, 4, 5, 7, 9))
    assert deal([1] * 10, [2, 4], "prefix") == ((0, 2, 4, 5), (1, 3, 6, 7, 8, 9))


def test_a_wire_that_moved_a_large_layer_waits_for_the_others_to_catch_up() -> None:
    assert deal([300, 100, 100, 100, 100], [0, 0], "auto") == ((0, 4), (1, 2, 3))


@given(st.integers(1, 80), st.integers(1, 100), st.data())
def test_the_least_that_streams_leaves_what_stays_its_room(
    layers: int, held: int, data: st.DataObject
) -> None:
    kv = data.draw(st.integers(0, held))
    space = data.draw(rooms)
    streamed = least_streamed(layers, held, kv, space)
    assert 0 <= streamed <= layers
    if streamed < layers:
        passing = -(-streamed // len(space)) * kv
        assert sum(max(room - passing, 0) // held for room in space) >= layers - streamed


@given(st.integers(0, 50), st.integers(1, 100), rooms)
def test_what_stays_goes_where_most_room_is_left(kept: int, held: int, space: list[int]) -> None:
    counts = kept_by_each(kept, held, space)
    assert sum(counts) == kept
    left = [room - held * count for room, count in zip(space, counts, strict=True)]
    taken = [room for room, count in zip(left, counts, strict=True) if count]
    assert not taken or max(left) - min(taken) <= held


@given(st.integers(0, 100), st.lists(st.integers(0, 20), min_size=1, max_size=5))
def test_a_count_is_shared_out_within_limits(count: int, limits: list[int]) -> None:
    parts = share_out(count, limits)
    assert sum(parts) == min(count, sum(limits))
    assert all(part <= limit for part, limit in zip(parts, limits, strict=True))


@pytest.mark.parametrize(("count", "parts"), [(0, (0, 0)), (3, (2, 1)), (4, (2, 2)), (9, (4, 4))])
def test_equal_limits_get_equal_parts(count: int, parts: tuple[int, int]) -> None:
    assert share_out(count, [4, 4]) == parts
