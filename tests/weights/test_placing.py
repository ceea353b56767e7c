"""Layers on their way between tiers, on a CPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollm_widgets.errors import Cancelled, CheckpointChangedError, WeightReadError
from ollm_widgets.planning.ids import LayerTier
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.filling import Filler
from ollm_widgets.weights.homes import LayerHome, Part
from ollm_widgets.weights.placing import RANK, Placer
from ollm_widgets.weights.reading.reader import WeightReader
from ollm_widgets.weights.reading.spilling import SpillFolder
from tests.weights.checkpoints import as_it_is, index_of

NEVER = threading.Event()


@pytest.fixture
def index(tmp_path: Path) -> CheckpointIndex:
    torch.manual_seed(0)
    return index_of(tmp_path / "layer", **{"0.dense": torch.randn(99), "0.experts": torch.randn(7)})


@contextmanager
def placer_of(index: CheckpointIndex) -> Iterator[tuple[Placer, LayerHome]]:
    dense, experts = (
        Part(LayerLayout.of("0", [as_it_is(index.spans[f"0.{name}"])]))
        for name in ("dense", "experts")
    )
    with WeightReader(index, threads=2) as reader:
        filler, spill = Filler(reader), SpillFolder(index, reader)
        yield Placer(filler, spill, on_cpu=True, pack=False), LayerHome(dense, experts)
        filler.close()
        spill.close()


def nothing(_size_bytes: int) -> None:
    """Nobody counts."""


def assert_bytes(home: LayerHome, index: CheckpointIndex) -> None:
    from safetensors.torch import load_file

    (path,) = index.identities
    stored = load_file(path)
    for part, name in ((home.dense, "dense"), (home.experts, "experts")):
        assert part is not None
        assert part.resident is not None
        assert torch.equal(part.layout.views(part.resident)[name], stored[f"0.{name}"])


def test_a_layer_that_comes_to_memory_has_its_bytes_and_is_counted(index: CheckpointIndex) -> None:
    counted: list[int] = []
    with placer_of(index) as (placer, home):
        assert (home.tier, home.resident_bytes, home.host_bytes) == ("disk", 0, 0)
        placer.bring(home, "host", NEVER, counted.append)
        assert home.tier == "host"
        assert_bytes(home, index)
        assert sum(counted) == home.resident_bytes == home.size_bytes
        home.clear()
        assert (home.tier, home.resident_bytes) == ("disk", 0)


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tiers=st.lists(st.sampled_from(["disk", "host"]), max_size=6))
def test_a_layer_can_be_moved_as_often_as_one_likes(
    index: CheckpointIndex, tiers: list[LayerTier]
) -> None:
    with placer_of(index) as (placer, home):
        for tier in tiers:
            placer.move(home, tier, NEVER)
            assert home.tier == tier
            assert home.resident_bytes == (home.size_bytes if tier == "host" else 0)
            if tier == "host":
                assert_bytes(home, index)


def _cancelled(_index: CheckpointIndex) -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def _cut_off(index: CheckpointIndex) -> threading.Event:
    (path,) = index.identities
    os.truncate(path, path.stat().st_size // 2)
    return NEVER


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(_cancelled, Cancelled), (_cut_off, (CheckpointChangedError, WeightReadError))],
)
@pytest.mark.parametrize("by", ["bring", "move"])
def test_a_layer_that_cannot_come_stays_on_disk(
    index: CheckpointIndex,
    spoil: Callable[[CheckpointIndex], threading.Event],
    error: type[Exception],
    by: str,
) -> None:
    with placer_of(index) as (placer, home):
        cancel = spoil(index)
        more = (nothing,) if by == "bring" else ()
        with pytest.raises(error):
            getattr(placer, by)(home, "host", cancel, *more)
        assert (home.tier, home.resident_bytes) == ("disk", 0)


def test_a_move_that_was_cancelled_before_it_began_moves_nothing(index: CheckpointIndex) -> None:
    with placer_of(index) as (placer, home):
        placer.bring(home, "host", NEVER, nothing)
        with pytest.raises(Cancelled):
            placer.move(home, "disk", _cancelled(index))
        assert home.tier == "host"
        assert_bytes(home, index)


def test_tiers_are_ordered_by_how_much_room_they_give_back() -> None:
    assert sorted(RANK, key=RANK.__getitem__) == ["disk", "host", "accelerator"]
