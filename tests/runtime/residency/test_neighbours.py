from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets.runtime.residency import presence
from ollm_widgets.runtime.residency.neighbours import PLEA_LIFE_S, KernelNeighbours
from ollm_widgets.runtime.residency.surroundings import HeldRuntime

GIB = 2**30
LLAMA = HeldRuntime("llama", "idle", 5.0, {"cuda:0": 6 * GIB, "ram": GIB})
BUSY = HeldRuntime("smol", "busy", 0.0, {"cuda:0": 2 * GIB})


class Clock:
    """Seconds since the epoch that pass when told."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "devices"


@pytest.fixture
def each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count two managers of one process as two kernels, as they are elsewhere."""
    monkeypatch.setattr(presence, "is_own", lambda key: False)


@pytest.fixture
def two(
    folder: Path, clock: Clock, each_its_own: None
) -> Iterator[tuple[KernelNeighbours, KernelNeighbours]]:
    mine = KernelNeighbours(folder, "mine.ipynb", clock=clock)
    theirs = KernelNeighbours(folder, "theirs.ipynb", clock=clock)
    mine.publish([])
    yield mine, theirs
    mine.close()
    theirs.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def titles(neighbours: KernelNeighbours) -> list[str]:
    return [holder.title for holder in neighbours.others()]


# ------------------------------------------------------------------ seeing each other


def test_what_one_holds_the_other_sees(two: tuple[KernelNeighbours, KernelNeighbours]) -> None:
    mine, theirs = two
    theirs.publish([LLAMA, BUSY])
    (holder,) = mine.others()
    assert (holder.pid, holder.title, holder.runtimes) == (
        os.getpid(),
        "theirs.ipynb",
        (LLAMA, BUSY),
    )
    assert holder.held_bytes("cuda:0") == 8 * GIB


def test_idle_time_goes_on_while_nothing_is_published(
    two: tuple[KernelNeighbours, KernelNeighbours], clock: Clock
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA, BUSY])
    clock.now += 60
    assert [runtime.idle_s for runtime in mine.others()[0].runtimes] == [65.0, 0.0]


def test_who_holds_nothing_any_more_is_not_shown(
    two: tuple[KernelNeighbours, KernelNeighbours],
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA])
    theirs.publish([])
    assert mine.others() == ()


def test_two_managers_of_one_process_are_one_kernel(folder: Path) -> None:
    one, another = KernelNeighbours(folder), KernelNeighbours(folder)
    one.publish([LLAMA])
    another.publish([BUSY])
    assert one.others() == another.others() == ()
    one.close()
    another.close()


def test_closing_leaves_nothing_behind_and_is_for_good(
    two: tuple[KernelNeighbours, KernelNeighbours], folder: Path
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA])
    mine.ask("cuda:0", GIB)
    theirs.close()
    theirs.publish([LLAMA])
    theirs.close()
    assert mine.others() == ()
    mine.close()
    assert names(folder) == []


def test_a_dropped_one_leaves_nothing_that_looks_alive(
    two: tuple[KernelNeighbours, KernelNeighbours], folder: Path
) -> None:
    mine, _ = two
    dropped = KernelNeighbours(folder, "dropped")
    dropped.publish([LLAMA])
    assert titles(mine) == ["dropped"]
    del dropped
    assert titles(mine) == []
    assert names(folder) == []


def test_an_emptied_folder_is_filled_again(
    two: tuple[KernelNeighbours, KernelNeighbours], folder: Path
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA])
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert mine.others() == ()
    theirs.publish([LLAMA])
    assert titles(mine) == ["theirs.ipynb"]


def test_only_the_user_may_look(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o755)
    kernel = KernelNeighbours(folder)
    kernel.publish([LLAMA])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    kernel.close()


# ------------------------------------------------------------------ which GPU


def test_a_gpu_goes_by_its_uuid_where_the_numbers_differ(folder: Path, each_its_own: None) -> None:
    here = KernelNeighbours(folder, uuids=lambda: {"cuda:0": "GPU-b", "cuda:1": "GPU-a"})
    there = KernelNeighbours(folder, uuids=lambda: {"cuda:0": "GPU-a", "cuda:1": "GPU-c"})
    there.publish([HeldRuntime("llama", "idle", 0.0, {"cuda:0": 5, "cuda:1": 7, "ram": 9})])
    (holder,) = here.others()
    assert holder.runtimes[0].held_bytes == {"cuda:1": 5, "GPU-c": 7, "ram": 9}
    here.ask("cuda:1", 3)
    (plea,) = there.pleas()
    assert (plea.place, plea.needed_bytes) == ("cuda:0", 3)
    here.close()
    there.close()


def test_before_this_kernel_uses_gpus_it_takes_over_the_others_numbers(
    folder: Path, each_its_own: None
) -> None:
    here = KernelNeighbours(folder, uuids=dict)
    there = KernelNeighbours(folder, uuids=lambda: {"cuda:0": "GPU-a"})
    there.publish([LLAMA])
    assert [holder.held_bytes("cuda:0") for holder in here.others()] == [6 * GIB]
    there.close()


# ------------------------------------------------------------------ asking


def test_a_request_reaches_who_holds_memory_there_and_is_answered_once(
    two: tuple[KernelNeighbours, KernelNeighbours],
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA])
    assert [holder.title for holder in mine.ask("cuda:0", GIB)] == ["theirs.ipynb"]
    (plea,) = theirs.pleas()
    assert (plea.asker_pid, plea.asker_title) == (os.getpid(), "mine.ipynb")
    assert (plea.place, plea.needed_bytes) == ("cuda:0", GIB)
    theirs.answer(plea, GIB)
    theirs.answer(plea, GIB)
    assert theirs.pleas() == ()


def test_nobody_is_asked_for_a_memory_that_nobody_holds(
    two: tuple[KernelNeighbours, KernelNeighbours], folder: Path
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA])
    assert mine.ask("cuda:1", GIB) == ()
    assert theirs.pleas() == ()


def test_asking_again_replaces_the_request(
    two: tuple[KernelNeighbours, KernelNeighbours],
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA])
    mine.ask("cuda:0", GIB)
    mine.ask("ram", 7)
    mine.ask("cuda:0", 2 * GIB)
    assert sorted(plea.needed_bytes for plea in theirs.pleas()) == [7, 2 * GIB]


def test_no_more_are_asked_than_would_give_enough_longest_idle_first(
    folder: Path, each_its_own: None
) -> None:
    def kernel(title: str, state: str, idle_s: float, held_bytes: int) -> KernelNeighbours:
        made = KernelNeighbours(folder, title)
        made.publish([HeldRuntime("model", state, idle_s, {"cuda:0": held_bytes})])
        return made

    asker = KernelNeighbours(folder)
    kernels = {
        "recent": kernel("recent", "idle", 10, 4 * GIB),
        "old": kernel("old", "idle", 100, 4 * GIB),
        "pinned": kernel("pinned", "pinned", 1000, 40 * GIB),
    }

    def asked(needed_bytes: int) -> dict[str, int]:
        asker.ask("cuda:0", needed_bytes)
        given = {}
        for title, each in kernels.items():
            for plea in each.pleas():
                given[title] = plea.needed_bytes
                each.answer(plea, 0)
        return given

    assert asked(3 * GIB) == {"old": 3 * GIB}
    assert asked(6 * GIB) == {"old": 6 * GIB, "recent": 2 * GIB}
    # Those who can give nothing now see that somebody waits.
    assert asked(9 * GIB) == {"old": 9 * GIB, "recent": 5 * GIB, "pinned": GIB}
    for each in (asker, *kernels.values()):
        each.close()


def test_a_request_ends_after_a_minute_and_with_who_asked(
    two: tuple[KernelNeighbours, KernelNeighbours], clock: Clock, folder: Path
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA])
    mine.ask("cuda:0", GIB)
    clock.now += PLEA_LIFE_S
    assert len(theirs.pleas()) == 1
    clock.now += 1
    assert theirs.pleas() == ()
    mine.ask("cuda:0", GIB)
    mine.close()
    assert theirs.pleas() == ()
    assert not [name for name in names(folder) if name.endswith(".plea")]


# ------------------------------------------------------------------ where it does not work


def test_a_folder_that_cannot_be_written_means_no_neighbours_and_one_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    kernel = KernelNeighbours(tmp_path / "file" / "devices")
    kernel.publish([LLAMA])
    first = kernel.note
    kernel.publish([LLAMA])
    assert first.startswith("Other kernels cannot be seen: ")
    assert kernel.note == first
    assert kernel.others() == kernel.pleas() == kernel.ask("ram", 1) == ()
    kernel.close()


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "devices").symlink_to(tmp_path / "elsewhere")
    kernel = KernelNeighbours(tmp_path / "devices")
    kernel.publish([LLAMA])
    assert "is no folder" in kernel.note
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_disk_without_locks_means_no_neighbours_and_one_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuses(file: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuses)
    kernel = KernelNeighbours(folder)
    kernel.publish([LLAMA])
    assert "Operation not supported" in kernel.note
    assert kernel.others() == ()
    assert names(folder) == []


def test_a_full_disk_withdraws_what_would_be_out_of_date(
    two: tuple[KernelNeighbours, KernelNeighbours], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = two
    theirs.publish([LLAMA])

    def full(part: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        theirs.publish([BUSY])
    assert "No space left" in theirs.note
    assert mine.others() == ()
    theirs.publish([BUSY])
    assert titles(mine) == ["theirs.ipynb"]


# ------------------------------------------------------------------ its name


@pytest.mark.parametrize(
    ("session", "argv", "title"),
    [
        ("/home/me/long document.ipynb", ["x"], "long document.ipynb"),
        ("", ["/srv/train.py", "--fast"], "train.py"),
        ("", ["-c"], "Python"),
        ("a\nb\u202ec.ipynb", ["x"], "a b c.ipynb"),
    ],
)
def test_a_kernel_is_known_by_its_notebook_else_by_its_script(
    session: str, argv: list[str], title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setenv("JPY_SESSION_NAME", session)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert KernelNeighbours(Path("nowhere")).title == title


def test_in_vs_code_the_notebook_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    import __main__

    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(__main__, "__vsc_ipynb_file__", "/home/me/talk.ipynb", raising=False)
    assert KernelNeighbours(Path("nowhere")).title == "talk.ipynb"
