from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollm_widgets.errors import KVPageError, OutOfMemory
from ollm_widgets.kv.layouts.pages import Pages
from ollm_widgets.kv.layouts.placed import PlacedRecords
from ollm_widgets.kv.layouts.records import Extent
from tests.kv.layouts.records import RECORD_BYTES, names, read, record


def test_a_changed_byte_is_noticed_and_the_message_says_where(
    files: PlacedRecords, tmp_path: Path
) -> None:
    first, second = files.append([record(1), record(2)])
    path = tmp_path / second.file
    content = bytearray(path.read_bytes())
    content[second.offset + 5] ^= 1
    path.write_bytes(content)

    assert read(files, [first]) == [record(1)]
    with pytest.raises(KVPageError, match=f"{second.file}.* at byte {second.offset}") as caught:
        read(files, [first, second])
    assert "run the prompt again" in str(caught.value)


@pytest.mark.parametrize("left", [0, 1, RECORD_BYTES - 1, RECORD_BYTES + 3])
def test_a_file_that_was_cut_is_noticed(files: PlacedRecords, tmp_path: Path, left: int) -> None:
    extents = files.append([record(1), record(2)])
    os.truncate(tmp_path / extents[0].file, left)
    with pytest.raises(KVPageError, match=r"ends .* too early"):
        read(files, extents)
    if left > RECORD_BYTES:
        assert read(files, extents[:1]) == [record(1)]


def test_a_file_that_went_is_noticed_by_a_later_process(
    files: PlacedRecords, tmp_path: Path
) -> None:
    extents = files.append([record(1)])
    slots = [RECORD_BYTES] if isinstance(files, Pages) else []
    later = type(files)(tmp_path, "later", *slots)
    (tmp_path / extents[0].file).unlink()
    with pytest.raises(KVPageError, match="No such file"):
        read(later, extents)
    later.close(delete=True)


def test_a_slot_with_something_else_in_it_is_not_taken_for_the_record(tmp_path: Path) -> None:
    files = Pages(tmp_path, "w", RECORD_BYTES)
    kept, old = files.append([record(1), record(2)])
    files.free([old])
    files.append([record(3)])
    with pytest.raises(KVPageError, match="not those that were written"):
        read(files, [old])
    assert read(files, [kept]) == [record(1)]


names_of_files = st.sampled_from(["", ".", "..", "../x", "/etc/passwd", "a\0b", "nothing", "sub"])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.one_of(names_of_files, st.none()),
    offset=st.integers(-(2**65), 2**65),
    checksum=st.integers(0, 2**64 - 1),
)
def test_an_extent_from_a_damaged_index_raises_the_same_error(
    files: PlacedRecords, tmp_path: Path, file: str | None, offset: int, checksum: int
) -> None:
    (tmp_path / "sub").mkdir(exist_ok=True)
    real = files.append([record(1)])[0]
    wrong = Extent(real.file if file is None else file, offset, 9, checksum)
    with pytest.raises(KVPageError):
        read(files, [wrong])
    (tmp_path / "sub").rmdir()


def test_a_full_disk_says_so_and_nothing_is_kept(
    files: PlacedRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = files.append([record(0)])

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", refuse)
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=7))
        with pytest.raises(
            OutOfMemory, match=r"64 bytes of KV pages do not fit.* 7 bytes"
        ) as caught:
            files.append([record(1), record(2)])
    assert (caught.value.tier, caught.value.free_bytes) == ("disk", 7)
    assert files.live_bytes == RECORD_BYTES

    # What comes after is as if nothing had been.
    after = files.append([record(number) for number in range(3, 9)])
    assert read(files, kept + after) == [record(number) for number in (0, *range(3, 9))]


def test_a_disk_that_refuses_otherwise_says_what_it_said(
    files: PlacedRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwritev", refuse)
    with pytest.raises(KVPageError, match=r"32 bytes .* could not be written: Input/output error"):
        files.append([record(1)])
    assert files.live_bytes == 0


def test_mistakes_of_the_caller_are_told_apart(files: PlacedRecords, tmp_path: Path) -> None:
    extents = files.append([record(1), record(2)])
    with pytest.raises(ValueError, match="at least one byte"):
        files.append([b""])
    with pytest.raises(ValueError, match="32 bytes cannot be read into 31"):
        files.read([(extents[0], bytearray(31))])
    with pytest.raises(ValueError, match="freed twice"):
        files.free([extents[0], extents[0]])
    with pytest.raises(ValueError, match="not live"):
        files.free([extents[0], replace(extents[1], offset=999)])
    assert read(files, extents) == [record(1), record(2)]

    files.free(extents)
    with pytest.raises(ValueError, match="not live"):
        files.free(extents)
    assert names(tmp_path) == []


def test_closed_files_are_closed(files: PlacedRecords) -> None:
    extents = files.append([record(1)])
    files.close(delete=False)
    files.close(delete=False)
    with pytest.raises(ValueError, match="closed"):
        files.append([record(2)])
    with pytest.raises(ValueError, match="closed"):
        read(files, extents)
