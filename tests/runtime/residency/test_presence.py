from __future__ import annotations

import os
from pathlib import Path

import pytest

from ollm_widgets.runtime.residency.presence import Presence, is_alive, is_here, is_own, pid_of

fcntl = pytest.importorskip("fcntl")


def test_a_key_names_this_process_on_this_machine(tmp_path: Path) -> None:
    here = Presence(tmp_path)
    assert is_here(here.key)
    assert is_own(here.key)
    assert pid_of(here.key) == os.getpid()
    here.close()


def test_who_lives_is_alive_and_who_has_left_is_buried(tmp_path: Path) -> None:
    here, buried = Presence(tmp_path), []
    assert is_alive(tmp_path, here.key, lambda: buried.append(here.key))
    assert buried == []
    here.close()
    assert not is_alive(tmp_path, here.key, lambda: buried.append(here.key))
    assert buried == [here.key]


def test_two_that_look_at_once_do_not_take_each_other_for_the_owner(tmp_path: Path) -> None:
    left = Presence(tmp_path)
    left._held.close()  # as a process that was killed
    with left.path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not is_alive(tmp_path, left.key, lambda: None)


def test_a_lock_that_somebody_is_about_to_remove_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, seen = fcntl.flock, []

    def buried_first(file: int, operation: int) -> None:
        if not seen:
            (path,) = tmp_path.iterdir()
            seen.append(path)
            path.unlink()
        works(file, operation)

    monkeypatch.setattr(fcntl, "flock", buried_first)
    here = Presence(tmp_path)
    assert here.path.exists()
    assert here.path not in seen
    assert is_alive(tmp_path, here.key, lambda: None)
    here.close()


def test_a_disk_that_never_gives_a_lock_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(file: int, operation: int) -> None:
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", taken)
    with pytest.raises(OSError, match="gives no lock"):
        Presence(tmp_path)
    assert list(tmp_path.iterdir()) == []
