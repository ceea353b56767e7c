from __future__ import annotations

import math
import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollm_widgets.planning.speed.alike import PlanShape
from ollm_widgets.planning.speed.observed import (
    ALIKE_LOOKED_AT,
    OBSERVATIONS_KEPT,
    SHAPES_KEPT,
    Observation,
    ObservationStore,
    Observed,
    default_store,
)

SHAPE = PlanShape("key", "layers in place")


@pytest.fixture
def store(tmp_path: Path) -> ObservationStore:
    return ObservationStore(tmp_path / "folder" / "observed.sqlite")


def token(ratio: float) -> Observation:
    return Observation("token", 2.0, 2.0 * ratio)


def test_what_was_recorded_is_read_the_latest_first(store: ObservationStore) -> None:
    assert store.read(SHAPE) == Observed()
    assert store.record(SHAPE, [token(1.5), Observation("load", 10.0, 5.0)]) == ""
    assert store.record(SHAPE, [token(1.25)]) == ""
    assert store.read(SHAPE).own == {"token": (1.25, 1.5), "load": (0.5,)}
    again = ObservationStore(store.path)
    assert again.read(SHAPE).own == {"token": (1.25, 1.5), "load": (0.5,)}


def test_reading_makes_no_file(store: ObservationStore) -> None:
    store.read(SHAPE)
    assert not store.path.parent.exists()


def test_other_shapes_of_the_regime_are_alike_and_those_of_others_are_not(
    store: ObservationStore,
) -> None:
    store.record(SHAPE, [token(1.0)])
    store.record(PlanShape("near", SHAPE.regime), [token(2.0)])
    store.record(PlanShape("far", "layers from disk"), [token(3.0)])
    observed = store.read(SHAPE)
    assert observed.own == {"token": (1.0,)}
    assert observed.alike == ({"token": (2.0,)},)


def test_of_each_figure_of_a_shape_the_last_ones_are_kept(store: ObservationStore) -> None:
    for number in range(OBSERVATIONS_KEPT + 5):
        store.record(SHAPE, [token(1.0 + number)])
    store.record(SHAPE, [Observation("load", 1.0, 1.0)])
    own = store.read(SHAPE).own
    assert own["token"] == tuple(1.0 + n for n in range(OBSERVATIONS_KEPT + 4, 4, -1))
    assert own["load"] == (1.0,)


def test_the_shapes_observed_least_lately_are_dropped(
    store: ObservationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(10_000))
    monkeypatch.setattr("time.time", lambda: float(next(now)))
    for number in range(SHAPES_KEPT):
        store.record(PlanShape(f"{number}", "many"), [token(1.0)])
    store.record(PlanShape("0", "many"), [token(1.0)])
    store.record(PlanShape("new", "many"), [token(1.0)])
    assert store.read(PlanShape("0", "many")).own
    assert store.read(PlanShape("new", "many")).own
    assert not store.read(PlanShape("1", "many")).own
    assert len(store.read(PlanShape("none", "many")).alike) == ALIKE_LOOKED_AT
    with sqlite3.connect(store.path) as connection:
        kept = connection.execute("SELECT count(DISTINCT shape) FROM observations").fetchone()
    connection.close()
    assert kept == (SHAPES_KEPT,)


@pytest.mark.parametrize(
    ("predicted", "measured"),
    [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.inf)],
)
def test_figures_that_give_no_ratio_are_not_kept(
    store: ObservationStore, predicted: float, measured: float
) -> None:
    assert store.record(SHAPE, [Observation("token", predicted, measured)]) == ""
    assert not store.path.exists()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        connection.close()


def test_a_locked_file_is_let_alone_and_the_note_says_so(store: ObservationStore) -> None:
    store.record(SHAPE, [token(1.0)])
    with locked(store.path):
        note = store.record(SHAPE, [token(9.0)])
        assert store.read(SHAPE) == Observed()
    assert "not remembered" in note
    assert "locked" in note
    assert store.read(SHAPE).own == {"token": (1.0,)}


def test_a_folder_that_cannot_be_made_is_noted(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, no folder")
    store = ObservationStore(tmp_path / "taken" / "observed.sqlite")
    assert "not remembered" in store.record(SHAPE, [token(1.0)])
    assert store.read(SHAPE) == Observed()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_noted(store: ObservationStore) -> None:
    store.path.parent.mkdir()
    store.path.parent.chmod(0o500)
    try:
        assert "not remembered" in store.record(SHAPE, [token(1.0)])
    finally:
        store.path.parent.chmod(0o700)


def test_a_folder_in_the_place_of_the_file_is_noted(store: ObservationStore) -> None:
    store.path.mkdir(parents=True)
    assert "not remembered" in store.record(SHAPE, [token(1.0)])
    assert store.read(SHAPE) == Observed()


@pytest.mark.parametrize("contents", [b"no database at all, but long enough " * 40, b"SQLite fo"])
def test_a_damaged_file_is_begun_anew_with_a_note(store: ObservationStore, contents: bytes) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(contents)
    assert store.read(SHAPE) == Observed()
    assert "damaged" in store.record(SHAPE, [token(1.5)])
    assert store.read(SHAPE).own == {"token": (1.5,)}
    assert store.path.with_suffix(".damaged").read_bytes() == contents


def test_other_tables_in_the_file_are_set_aside(store: ObservationStore) -> None:
    store.path.parent.mkdir()
    connection = sqlite3.connect(store.path)
    connection.execute("CREATE TABLE shapes (something TEXT)")
    connection.commit()
    connection.close()
    assert store.read(SHAPE) == Observed()
    assert "damaged" in store.record(SHAPE, [token(1.5)])
    assert store.read(SHAPE).own == {"token": (1.5,)}


def test_rows_that_somebody_else_has_written_are_passed_over(store: ObservationStore) -> None:
    store.record(SHAPE, [token(1.5)])
    connection = sqlite3.connect(store.path)
    rows = [
        ("token", "fast", 1.0),
        ("token", -1.0, 1.0),
        ("token", math.inf, 1.0),
        ("token", b"\xff", 1.0),
        ("colour", 1.0, 1.0),
    ]
    connection.executemany("INSERT INTO observations VALUES (NULL, 'key', ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    assert store.read(SHAPE).own == {"token": (1.5,)}


@given(
    cuts=st.lists(
        st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=200)), min_size=1, max_size=4
    )
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_in_the_file_nothing_is_raised_and_it_works_again(
    tmp_path: Path, cuts: list[tuple[float, bytes]]
) -> None:
    store = ObservationStore(tmp_path / "fuzzed.sqlite")
    for leftover in tmp_path.iterdir():
        leftover.unlink()
    for number in range(12):
        store.record(PlanShape(f"{number % 5}", "alike"), [token(1.0), Observation("load", 1, 2)])
    contents = bytearray(store.path.read_bytes())
    for share, damage in cuts:
        start = int(share * len(contents))
        contents[start : start + len(damage)] = damage
    store.path.write_bytes(contents)
    for _ in range(2):
        observed = store.read(PlanShape("1", "alike"))
        for ratios in (observed.own, *observed.alike):
            assert all(ratio >= 0 for each in ratios.values() for ratio in each)
        assert isinstance(store.record(PlanShape("1", "alike"), [token(1.0)]), str)


def _record_many(path: Path, name: str, count: int) -> None:
    store = ObservationStore(path)
    kept = sum(not store.record(PlanShape(name, "race"), [token(1.0)]) for _ in range(count))
    path.with_name(f"{name}.kept").write_text(str(kept))


def test_several_processes_record_at_once_and_lose_nothing(store: ObservationStore) -> None:
    context = multiprocessing.get_context("spawn")
    names, count = ("a", "b", "c"), OBSERVATIONS_KEPT
    processes = [
        context.Process(target=_record_many, args=(store.path, name, count)) for name in names
    ]
    store.path.parent.mkdir()
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for name in names:
        kept = int(store.path.with_name(f"{name}.kept").read_text())
        assert kept > 0
        assert len(store.read(PlanShape(name, "race")).own["token"]) == kept


def _record_until_killed(path: Path, key: str) -> None:
    store = ObservationStore(path)
    while True:
        store.record(PlanShape(key, "killed"), [token(1.0), Observation("load", 1.0, 1.0)])


def test_a_process_that_is_killed_leaves_the_file_whole(store: ObservationStore) -> None:
    store.record(SHAPE, [token(1.0)])
    context = multiprocessing.get_context("spawn")
    for key in ("first", "second"):
        process = context.Process(target=_record_until_killed, args=(store.path, key))
        process.start()
        while len(store.read(PlanShape(key, "killed")).own.get("load", ())) < OBSERVATIONS_KEPT:
            assert process.is_alive()
        process.kill()
        process.join(60)
        assert store.record(SHAPE, [token(1.0)]) == ""
    connection = sqlite3.connect(store.path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_the_environment_turns_it_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("OLLM_OBSERVE", raising=False)
    store = default_store()
    assert store is not None
    assert store.path.parent == tmp_path
    for word in ("0", "off", " No "):
        monkeypatch.setenv("OLLM_OBSERVE", word)
        assert default_store() is None
