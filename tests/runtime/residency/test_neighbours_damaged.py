"""Files that no well-meaning kernel has written."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollm_widgets.runtime.residency import presence
from ollm_widgets.runtime.residency.holder_files import (
    MOST_BYTES,
    HolderRecord,
    PleaRecord,
    read_record,
)
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from ollm_widgets.runtime.residency.surroundings import HeldRuntime

GOOD: dict[str, Any] = {
    "title": "other.ipynb",
    "at": 1.0,
    "runtimes": [
        {
            "name": "llama",
            "state": "idle",
            "idle_s": 2.0,
            "places": [{"place": "cuda:0", "size_bytes": 5, "uuid": None}],
        }
    ],
}
PLEA: dict[str, Any] = {
    "asker_title": "other.ipynb",
    "at": 0.0,
    "wanted": {"place": "cuda:0", "size_bytes": 5, "uuid": None},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for step, inner in steps:
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*path, step))
        else:
            yield (*path, step)


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = _with(value[path[0]], path[1:], new)
    return copied


def _twisted(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A record with one part of it replaced, or cut short, or any bytes."""
    replaced = st.tuples(st.sampled_from(sorted(_paths(good), key=str)), JSON).map(
        lambda each: json.dumps(_with(good, *each)).encode(errors="replace")
    )
    cut = st.integers(0, len(json.dumps(good))).map(lambda end: json.dumps(good)[:end].encode())
    return replaced | cut | st.binary(max_size=100)


@contextmanager
def alive_in(folder: Path, *, foreign: bool = True) -> Iterator[str]:
    """The key of a process that lives: this one under another number, its lock taken."""
    with pytest.MonkeyPatch.context() as patch:
        if foreign:
            other = f"{presence.machine_id()}-1-abc"
            patch.setattr(presence, "_own_prefix", lambda: other)
        here = presence.Presence(folder)
    try:
        yield here.key
    finally:
        here.close()


@settings(deadline=None)
@given(_twisted(GOOD))
def test_any_record_is_read_whole_or_ignored(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        mine = KernelNeighbours(folder)
        with alive_in(folder) as key:
            (folder / f"{key}.json").write_bytes(content)
            for holder in mine.others():
                assert holder.pid == 1
                assert holder.title.isprintable()
                assert len(holder.title) <= 200
                assert holder.held_bytes("cuda:0") >= 0
                assert all(runtime.idle_s >= 0 for runtime in holder.runtimes)
            mine.ask("cuda:0", 1)
            mine.close()


@settings(deadline=None)
@given(_twisted(PLEA))
def test_any_request_is_read_whole_or_removed(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        mine = KernelNeighbours(folder, clock=lambda: 30.0)
        mine.publish([HeldRuntime("llama", "idle", 0.0, {"cuda:0": 1})])
        (own,) = (path.stem for path in folder.glob("*.lock"))
        with alive_in(folder) as key:
            path = folder / f"{own}.{key}.0.plea"
            path.write_bytes(content)
            pleas = mine.pleas()
            assert path.exists() == bool(pleas)
            for plea in pleas:
                assert plea.asker_pid == 1
                assert plea.needed_bytes >= 0
                mine.answer(plea, 0)
            assert mine.pleas() == ()
        mine.close()


def test_the_untouched_ones_are_read(tmp_path: Path) -> None:
    mine = KernelNeighbours(tmp_path, clock=lambda: 1.0)
    mine.publish([HeldRuntime("llama", "idle", 0.0, {"cuda:0": 1})])
    (own,) = (path.stem for path in tmp_path.glob("*.lock"))
    with alive_in(tmp_path) as key:
        (tmp_path / f"{key}.json").write_text(json.dumps(GOOD))
        (tmp_path / f"{own}.{key}.0.plea").write_text(json.dumps(PLEA))
        assert mine.others()[0].runtimes == (HeldRuntime("llama", "idle", 2.0, {"cuda:0": 5}),)
        assert [plea.needed_bytes for plea in mine.pleas()] == [5]
    mine.close()


def test_words_that_would_do_something_on_a_screen_are_shown_as_plain_ones(
    tmp_path: Path,
) -> None:
    mine = KernelNeighbours(tmp_path)
    with alive_in(tmp_path) as key:
        title = "\x1b[2Jgone\u202e\n" + "x" * 900
        (tmp_path / f"{key}.json").write_text(json.dumps(GOOD | {"title": title}))
        assert mine.others()[0].title == " [2Jgone  " + "x" * 190


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text(json.dumps(GOOD))
    path.symlink_to(target)


def _deep(path: Path) -> None:
    path.write_text("[" * 50_000)


def _large(path: Path) -> None:
    path.write_text(json.dumps(GOOD) + " " * MOST_BYTES)


@pytest.mark.parametrize("make", [_link, _deep, _large, os.mkfifo, Path.mkdir])
def test_what_is_no_small_plain_file_is_ignored(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "record"
    make(path)
    assert read_record(path, HolderRecord) is None
    assert read_record(path, PleaRecord) is None


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, _link])
def test_a_lock_that_is_no_plain_file_hangs_nobody(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    key = f"{presence.machine_id()}-1-abc-{secrets.token_hex(4)}"
    make(tmp_path / f"{key}.lock")
    (tmp_path / f"{key}.json").write_text(json.dumps(GOOD))
    assert KernelNeighbours(tmp_path).others() == ()


@given(st.text(alphabet="0123456789abcdefABCDEF-._ ~/\\", max_size=60))
def test_any_name_belongs_to_a_process_or_to_nobody(name: str) -> None:
    for key in presence.keys_in([name]):
        assert name.startswith(key)
        assert presence.pid_of(key) >= 0


@pytest.mark.parametrize("suffix", ["", ".", ".plea", "..plea", ".x.plea", ".x.y.z.plea"])
def test_odd_names_of_requests_are_passed_over(suffix: str, tmp_path: Path) -> None:
    mine = KernelNeighbours(tmp_path)
    mine.publish([HeldRuntime("llama", "idle", 0.0, {"cuda:0": 1})])
    (own,) = (path.stem for path in tmp_path.glob("*.lock"))
    (tmp_path / f"{own}{suffix}").touch()
    assert mine.pleas() == ()
    mine.close()


def test_records_of_other_machines_are_left_alone_until_they_are_old(tmp_path: Path) -> None:
    old, new = (tmp_path / f"{'0' * 12}-1-abc-{n * 8}.json" for n in "12")
    for path in (old, new):
        path.write_text(json.dumps(GOOD))
    os.utime(old, (1.0, 1.0))
    mine = KernelNeighbours(tmp_path)
    assert mine.others() == ()
    mine.publish([HeldRuntime("llama", "idle", 0.0, {"ram": 1})])
    assert (old.exists(), new.exists()) == (False, True)
    mine.close()
