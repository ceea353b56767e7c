"""How many calls it takes, and what they may do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ollm_widgets.kv.layouts import positional
from ollm_widgets.kv.layouts.opened import OpenFiles
from ollm_widgets.kv.layouts.pages import Pages
from ollm_widgets.kv.layouts.placed import PlacedRecords
from ollm_widgets.kv.layouts.positional import PositionalFile
from ollm_widgets.kv.layouts.runs import MOST_GAP_BYTES
from ollm_widgets.kv.layouts.segments import Segments
from tests.kv.layouts.records import RECORD_BYTES, names, read, record


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Sizes of the calls of a function of `os`."""
    real, sizes = getattr(os, name), []

    def count(file: int, parts: Sequence[memoryview], offset: int) -> Any:
        sizes.append(sum(map(len, parts)))
        return real(file, parts, offset)

    monkeypatch.setattr(os, name, count)
    return sizes


def test_records_next_to_each_other_take_one_write_and_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, reads = counted(monkeypatch, "pwritev"), counted(monkeypatch, "preadv")
    files = Segments(tmp_path, "w")
    extents = files.append([record(number) for number in range(100)])
    assert writes == [100 * RECORD_BYTES]
    assert read(files, extents[::-1]) == [record(number) for number in range(99, -1, -1)]
    assert reads == [100 * RECORD_BYTES]


def test_small_gaps_are_read_over_and_large_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Segments(tmp_path, "w")
    large = record(5, MOST_GAP_BYTES + 1)
    extents = files.append([record(1), record(2), record(3), large, record(4)])
    reads = counted(monkeypatch, "preadv")
    assert read(files, extents[::2]) == [record(1), record(3), record(4)]
    assert reads == [3 * RECORD_BYTES, RECORD_BYTES]


def test_slots_that_are_not_full_are_written_at_once_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = counted(monkeypatch, "pwritev")
    files = Pages(tmp_path, "w", RECORD_BYTES)
    extents = files.append([record(number, 20) for number in range(4)])
    assert writes == [3 * RECORD_BYTES + 20]
    # But not when there is far more room than there are bytes.
    wide = Pages(tmp_path, "wide", 2 * MOST_GAP_BYTES)
    far = wide.append([record(1), record(2)])
    assert writes[1:] == [RECORD_BYTES] * 2
    assert read(files, extents + far)[4:] == [record(1), record(2)]


def test_a_file_is_opened_once(
    files: PlacedRecords, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = []

    def open_counted(path: Path, mode: str) -> FileIO:
        opened.append(path.name)
        return FileIO(path, mode)

    monkeypatch.setattr("ollm_widgets.kv.layouts.opened.FileIO", open_counted)
    extents = []
    for number in range(12):
        extents += files.append([record(number)])
        read(files, extents)
    assert opened == names(tmp_path)


def test_buffers_of_any_kind_are_taken(files: PlacedRecords) -> None:
    array = np.arange(RECORD_BYTES // 4, dtype=np.float32).reshape(2, -1)
    extents = files.append([array.data, memoryview(record(1)), bytearray(record(2))])
    back = np.empty_like(array)
    files.read([(extents[0], back.data)])
    assert np.array_equal(back, array)
    with pytest.raises(ValueError, match="writable"):
        files.read([(extents[0], bytes(RECORD_BYTES))])


def limited(real: Callable[..., int], most: int) -> Callable[..., int]:
    """A call that does at most so many bytes at a time."""

    def call(file: int, parts: Sequence[memoryview], offset: int) -> int:
        return real(file, [parts[0][:most]], offset)

    return call


@pytest.mark.parametrize("most", [1, 7, RECORD_BYTES, RECORD_BYTES + 1])
def test_calls_that_are_cut_short_go_on(
    files: PlacedRecords, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(os, "preadv", limited(os.preadv, most))
    monkeypatch.setattr(os, "pwritev", limited(os.pwritev, most))
    extents = files.append([record(number) for number in range(5)])
    assert read(files, extents) == [record(number) for number in range(5)]


@pytest.mark.parametrize("vectors", [True, False])
def test_a_place_of_a_file_is_read_and_written_with_and_without_the_systems_calls_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectors: bool
) -> None:
    monkeypatch.setattr(positional, "_MOST_PARTS", 3)
    monkeypatch.setattr(positional, "_MOST_BYTES", 50)
    file = PositionalFile(FileIO(tmp_path / "file", "x+"), vectors=vectors)
    parts = [record(number, size) for number, size in enumerate((1, 120, 0, 7, 3, 2, 50, 51))]
    file.write(10, [memoryview(part) for part in parts])
    buffers = [bytearray(len(part)) for part in parts]
    assert file.read(10, [memoryview(buffer) for buffer in buffers]) == sum(map(len, parts))
    assert buffers == parts
    assert file.read(240, [memoryview(bytearray(10))]) == 4
    assert file.read(999, [memoryview(bytearray(10))]) == 0
    file.truncate(300)
    assert (tmp_path / "file").stat().st_size == 244
    file.truncate(11)
    assert file.read(10, [memoryview(bytearray(10))]) == 1
    file.sync()
    file.close()


def test_layouts_work_where_the_system_has_no_such_calls(
    files: PlacedRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = partial(PositionalFile, vectors=False)
    monkeypatch.setattr("ollm_widgets.kv.layouts.opened.PositionalFile", without)
    monkeypatch.delattr(os, "preadv")
    monkeypatch.delattr(os, "pwritev")
    extents = files.append([record(number, number + 1) for number in range(40)])
    files.free(extents[5:30])
    moved = files.compact()
    kept = [moved.get(extent, extent) for extent in extents[:5] + extents[30:]]
    assert read(files, kept) == [
        record(number, number + 1) for number in (*range(5), *range(30, 40))
    ]


def test_more_files_than_may_be_open_are_opened_again(tmp_path: Path) -> None:
    files = OpenFiles(tmp_path, most_open=2)
    for name in "abc":
        files.create(name)
        with files.use(name, write=True) as file:
            file.write(0, [memoryview(name.encode())])
    files.sync()
    for name in "abcab":
        buffer = bytearray(1)
        with files.use(name) as file:
            file.read(0, [memoryview(buffer)])
        assert buffer == name.encode()
        assert len(files._opened) <= 2
    with files.use("a", write=True) as file:  # still the one who may write to it
        file.write(0, [memoryview(b"A")])
    files.close()


def test_a_file_in_use_outlives_its_removal(tmp_path: Path) -> None:
    files = OpenFiles(tmp_path)
    files.create("a")
    buffer = bytearray(1)
    with files.use("a", write=True) as file:
        file.write(0, [memoryview(b"A")])
        files.remove("a")
        files.close()
        file.read(0, [memoryview(buffer)])
    assert buffer == b"A"
    assert names(tmp_path) == []


def syncs_counted(monkeypatch: pytest.MonkeyPatch) -> list[PositionalFile]:
    """Files in the order in which they are synced."""
    synced: list[PositionalFile] = []

    def sync(self: PositionalFile) -> None:
        synced.append(self)

    monkeypatch.setattr(PositionalFile, "sync", sync)
    return synced


def test_what_is_written_during_a_sync_is_left_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = syncs_counted(monkeypatch)
    files = OpenFiles(tmp_path)
    files.create("a")
    with files.use("a", write=True):
        files.sync()
    assert len(synced) == 0
    files.sync()
    files.sync()
    assert len(synced) == 1
    files.close()


def test_a_sync_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: PositionalFile) -> None:
        raise OSError(5, "Input/output error")

    files = OpenFiles(tmp_path)
    files.create("a")
    with files.use("a", write=True) as file:
        file.write(0, [memoryview(b"A")])
    with monkeypatch.context() as patch:
        patch.setattr(PositionalFile, "sync", refuse)
        with pytest.raises(OSError, match="Input/output"):
            files.sync()
    synced = syncs_counted(monkeypatch)
    files.sync()
    assert len(synced) == 1
    files.close()


def test_layouts_need_no_torch() -> None:
    code = (
        "import sys; import ollm_widgets.kv.layouts.opening as r, pathlib; "
        "[r.open_layout(l, pathlib.Path('.'), record_bytes=1, writer='w') "
        "for l in ('chunks', 'pages', 'segments', 'journal')]; "
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
