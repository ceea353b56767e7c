from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

from ollm_widgets.errors import KVPageError
from ollm_widgets.kv.layouts.journal import Journal
from ollm_widgets.kv.layouts.placed import PlacedRecords
from ollm_widgets.kv.layouts.records import Extent
from tests.kv.layouts.records import names, read, record


@pytest.mark.parametrize("seed", range(3))
def test_threads_that_append_read_free_and_compact_do_not_disturb_each_other(
    files: PlacedRecords, tmp_path: Path, seed: int
) -> None:
    """Each thread keeps records of its own; a compaction tells all of them."""
    threads, rounds = 4, 30
    kept: list[dict[int, Extent]] = [{} for _ in range(threads)]
    telling = threading.Lock()
    compacts = isinstance(files, Journal)

    def read_moving(mine: dict[int, Extent]) -> list[bytes]:
        while True:
            with telling:
                extents = list(mine.values())
            try:
                return read(files, extents)
            except KVPageError:
                # A record that moves once is found at its old place; one that moves twice is not.
                with telling:
                    assert extents != list(mine.values())

    def work(thread: int) -> None:
        chance = random.Random(1000 * seed + thread)
        mine = kept[thread]
        for step in range(rounds):
            numbers = [
                thread * 1_000_000 + step * 100 + each for each in range(chance.randint(0, 5))
            ]
            payloads = [record(number, number % 90 + 1) for number in numbers]
            # What is not in the table yet would not hear of two compactions.
            with telling if compacts else nullcontext():
                mine.update(zip(numbers, files.append(payloads), strict=True))
            assert read_moving(mine) == [record(each, each % 90 + 1) for each in mine]
            for number in chance.sample(sorted(mine), len(mine) // 2):
                with telling:
                    extent = mine.pop(number)
                    files.free([extent])
            with telling:
                if chance.random() < 0.2:
                    moved = files.compact()
                    for each in kept:
                        each.update((key, moved.get(at, at)) for key, at in list(each.items()))

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, thread) for thread in range(threads)]:
            done.result()
    for mine in kept:
        assert read(files, list(mine.values())) == [record(each, each % 90 + 1) for each in mine]
        files.free(list(mine.values()))
    assert files.live_bytes == files.file_bytes == 0
    assert names(tmp_path) == []


def test_a_read_that_a_compaction_overtakes_finds_the_new_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Journal(tmp_path, "w")
    extents = files.append([record(number) for number in range(4)])
    files.free(extents[:3])
    real = files._read

    def overtaken(run: object) -> None:
        monkeypatch.setattr(files, "_read", real)
        assert files.compact()
        real(run)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "_read", overtaken)
    assert read(files, extents[3:]) == [record(3)]


def test_close_waits_for_what_is_being_written(
    files: PlacedRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    real = files._room

    def waiting(size: int) -> int:
        began.set()
        assert go_on.wait(60)
        return real(size)

    monkeypatch.setattr(files, "_room", waiting)
    with ThreadPoolExecutor(2) as pool:
        append = pool.submit(files.append, [record(1), record(2)])
        assert began.wait(60)
        close = pool.submit(files.close, delete=True)
        assert not close.done()
        go_on.set()
        assert len(append.result(60)) == 2
        close.result(60)
    assert names(tmp_path) == []
