"""Real processes that see, ask and survive each other."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from ollm_widgets.runtime.residency.surroundings import HeldRuntime
from tests.runtime.residency.other_kernel import other_kernels

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills and forks as POSIX does")
HELD = ["llama", "idle", 1.0, {"cuda:0": 100, "ram": 10}]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_another_process_is_seen_with_what_it_holds(tmp_path: Path) -> None:
    mine = KernelNeighbours(tmp_path, "mine")
    with other_kernels(tmp_path, "theirs.ipynb") as (theirs,):
        theirs.tell("publish", HELD, ["smol", "pinned", 0.0, {"ram": 5}])
        (holder,) = mine.others()
        assert (holder.pid, holder.title) == (theirs.pid, "theirs.ipynb")
        assert [runtime.name for runtime in holder.runtimes] == ["llama", "smol"]
        assert (holder.held_bytes("cuda:0"), holder.held_bytes("ram")) == (100, 15)


def test_a_killed_kernel_is_forgotten_at_once_and_its_files_go(tmp_path: Path) -> None:
    mine = KernelNeighbours(tmp_path, "mine")
    with other_kernels(tmp_path, "theirs") as (theirs,):
        theirs.tell("publish", HELD)
        assert len(mine.others()) == 1
        theirs.kill()
        assert len(names(tmp_path)) == 2
        assert mine.others() == ()
        assert names(tmp_path) == []


def test_a_kernel_that_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    with other_kernels(tmp_path, "theirs") as (theirs,):
        theirs.tell("publish", HELD)
        assert len(names(tmp_path)) == 2
        theirs.end()
        assert names(tmp_path) == []


def test_a_child_that_outlives_its_kernel_holds_nothing(tmp_path: Path) -> None:
    mine = KernelNeighbours(tmp_path, "mine")
    with other_kernels(tmp_path, "theirs") as (theirs,):
        theirs.tell("publish", HELD)
        child = theirs.tell("fork")
        try:
            assert [holder.pid for holder in mine.others()] == [theirs.pid]
            theirs.kill()
            os.kill(child, 0)  # it lives, with everything that it inherited
            assert mine.others() == ()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_of_ours_neither_counts_nor_withdraws_us(tmp_path: Path) -> None:
    mine = KernelNeighbours(tmp_path, "mine")
    mine.publish([HeldRuntime(*HELD)])  # type: ignore[arg-type]
    before = names(tmp_path)
    with other_kernels(tmp_path, "theirs") as (theirs,):
        child = os.fork()
        if not child:
            status = 1
            try:
                mine.publish([])
                mine.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert names(tmp_path) == before
        assert [holder["title"] for holder in theirs.tell("others")] == ["mine"]
    mine.close()


def test_a_child_of_ours_that_keeps_runtimes_is_a_kernel_of_its_own(tmp_path: Path) -> None:
    mine = KernelNeighbours(tmp_path, "mine")
    mine.publish([HeldRuntime(*HELD)])  # type: ignore[arg-type]
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            mine.publish([HeldRuntime("smol", "idle", 0.0, {"ram": 1})])
            os.write(writing, b"1")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reading, 1) == b"1"
        assert [holder.pid for holder in mine.others()] == [child]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
    assert mine.others() == ()
    mine.close()


def test_a_request_dies_with_the_process_that_asked(tmp_path: Path) -> None:
    mine = KernelNeighbours(tmp_path, "mine")
    mine.publish([HeldRuntime(*HELD)])  # type: ignore[arg-type]
    with other_kernels(tmp_path, "asks") as (asker,):
        assert [holder["title"] for holder in asker.tell("ask", "cuda:0", 7)] == ["mine"]
        assert [plea.asker_pid for plea in mine.pleas()] == [asker.pid]
        asker.kill()
        assert mine.pleas() == ()
    mine.close()
    assert not [name for name in names(tmp_path) if name.endswith(".plea")]


def test_three_that_ask_each_other_at_once_are_each_answered(tmp_path: Path) -> None:
    rounds = 5
    with other_kernels(tmp_path, "a", "b", "c") as kernels:
        for kernel in kernels:
            kernel.tell("publish", HELD)
        for _ in range(rounds):
            for method, arguments in (("ask", ("cuda:0", 200)), ("answer_all", (50,))):
                for kernel in kernels:
                    kernel.begin(method, *arguments)
                results = [kernel.result() for kernel in kernels]
                counts = [len(each) if isinstance(each, list) else each for each in results]
                assert counts == [2, 2, 2]  # it asks both others, and is asked by both
            assert [kernel.tell("pleas") for kernel in kernels] == [[], [], []]


def test_processes_that_come_and_go_see_neither_the_dead_nor_miss_the_living(
    tmp_path: Path,
) -> None:
    with other_kernels(tmp_path, "a", "b", "c", "d") as kernels:
        for kernel in kernels:
            kernel.begin("publish", HELD)
        for kernel in kernels:
            kernel.result()
        killed, living = kernels[:2], kernels[2:]
        for kernel in killed:
            kernel.kill()
        # All look at once, and so clean up at once.
        for _ in range(3):
            for kernel in living:
                kernel.begin("others")
            seen = [{holder["pid"] for holder in kernel.result()} for kernel in living]
            assert seen == [{living[1].pid}, {living[0].pid}]
        assert len(names(tmp_path)) == 4
