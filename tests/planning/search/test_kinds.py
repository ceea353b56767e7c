from __future__ import annotations

from math import prod

from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.planning.search.kinds import MOST_WAYS, kinds_of
from tests.planning.search.layers import MIB, sizes_of

any_layers = st.lists(st.integers(1, 400 * MIB), min_size=1, max_size=120).map(tuple)
alike = st.lists(st.sampled_from([5 * MIB, 7 * MIB]), min_size=1, max_size=120).map(tuple)


@given(any_layers | alike, st.booleans())
def test_every_layer_is_of_one_kind(layers: tuple[int, ...], last_first: bool) -> None:
    kinds = kinds_of(sizes_of(layers), last_first=last_first)
    assert sorted(index for kind in kinds for index in kind.indices) == list(range(len(layers)))
    for kind in kinds:
        assert kind.slot_bytes == max(layers[index] for index in kind.indices)


@given(alike)
def test_equal_layers_are_one_kind_and_different_ones_are_not(layers: tuple[int, ...]) -> None:
    assert len(kinds_of(sizes_of(layers))) == len(set(layers))


@given(st.lists(st.integers(1, 400 * MIB), min_size=2, max_size=12, unique=True).map(tuple))
def test_up_to_twelve_layers_are_told_apart(layers: tuple[int, ...]) -> None:
    assert len(kinds_of(sizes_of(layers))) == len(layers)


@given(any_layers)
def test_there_are_never_too_many_ways_to_choose(layers: tuple[int, ...]) -> None:
    kinds = kinds_of(sizes_of(layers))
    ways = prod(len(kind) + 1 for kind in kinds[:-1])
    assert ways <= MOST_WAYS or len(layers) <= 12
    assert all(len(kind) <= len(kinds[-1]) for kind in kinds)


@given(any_layers)
def test_of_layers_of_nearly_one_size_the_larger_come_first(layers: tuple[int, ...]) -> None:
    for kind in kinds_of(sizes_of(layers)):
        sizes = [layers[index] for index in kind.indices]
        assert sizes == sorted(sizes, reverse=True)
        assert kind.first_bytes(layers)[1:2] == (sizes[0],)
        assert kind.last_bytes(layers)[-1] == sum(sizes)


def test_dense_layers_and_mixtures_of_one_size_are_two_kinds() -> None:
    layers = tuple(range(100, 140)) * 2
    sizes = sizes_of(layers, tuple(size // 2 * (index >= 40) for index, size in enumerate(layers)))
    for kind in kinds_of(sizes):
        assert len({index >= 40 for index in kind.indices}) == 1


def test_of_equal_layers_the_first_or_the_last_are_kept_first() -> None:
    sizes = sizes_of((MIB,) * 5)
    assert kinds_of(sizes)[0].indices == (0, 1, 2, 3, 4)
    assert kinds_of(sizes, last_first=True)[0].indices == (4, 3, 2, 1, 0)
