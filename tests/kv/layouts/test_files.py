"""What each layout does with its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollm_widgets.errors import OutOfMemory
from ollm_widgets.kv.layouts import pages as pages_module
from ollm_widgets.kv.layouts.chunks import Chunks
from ollm_widgets.kv.layouts.journal import Journal
from ollm_widgets.kv.layouts.opening import open_layout
from ollm_widgets.kv.layouts.pages import Pages
from ollm_widgets.kv.layouts.placed import PlacedRecords
from ollm_widgets.kv.layouts.records import Extent
from ollm_widgets.kv.layouts.segments import Segments
from tests.kv.layouts.records import RECORD_BYTES, names, read, record


def test_names_begin_with_the_writer_so_that_several_share_a_folder(
    files: PlacedRecords, tmp_path: Path
) -> None:
    mine = files.append([record(1)])
    slots = [RECORD_BYTES] if isinstance(files, Pages) else []
    other = type(files)(tmp_path, "other", *slots)
    theirs = other.append([record(2)])
    assert {name.split("-")[0] for name in names(tmp_path)} == {"w", "other"}
    assert read(other, mine + theirs) == [record(1), record(2)]

    other.close(delete=True)
    assert names(tmp_path) == [mine[0].file]


def test_what_an_earlier_process_left_is_never_written_over(
    files: PlacedRecords, tmp_path: Path
) -> None:
    old = files.append([record(1)])
    files.close(delete=False)
    slots = [RECORD_BYTES] if isinstance(files, Pages) else []
    again = type(files)(tmp_path, "w", *slots)
    new = again.append([record(2)])
    assert new[0].file != old[0].file
    assert read(again, old + new) == [record(1), record(2)]
    again.close(delete=True)
    assert names(tmp_path) == [old[0].file]


def test_adopted_records_can_be_freed_and_their_files_go(
    files: PlacedRecords, tmp_path: Path
) -> None:
    old = files.append([record(number) for number in range(4)])
    files.close(delete=False)
    slots = [RECORD_BYTES] if isinstance(files, Pages) else []
    again = type(files)(tmp_path, "again", *slots)
    again.adopt(old)
    again.adopt(old[:1])
    assert again.live_bytes == 4 * RECORD_BYTES == again.file_bytes
    again.free(old)
    assert names(tmp_path) == []


def test_a_chunk_holds_so_many_records_and_goes_with_the_last(tmp_path: Path) -> None:
    files = Chunks(tmp_path, "w", chunk_records=3)
    extents = files.append([record(number) for number in range(7)])
    assert names(tmp_path) == [f"w-00000{number}.chunk" for number in (1, 2, 3)]
    files.free(extents[:3])
    assert names(tmp_path) == ["w-000002.chunk", "w-000003.chunk"]
    files.free(extents[3:5])
    assert files.file_bytes == 4 * RECORD_BYTES


def test_a_segment_grows_to_its_size_and_a_large_record_has_one_for_itself(tmp_path: Path) -> None:
    files = Segments(tmp_path, "w", segment_bytes=2 * RECORD_BYTES)
    extents = files.append([record(1), record(2), record(3), record(4, 3 * RECORD_BYTES)])
    assert [extent.file[:8] for extent in extents] == ["w-000001"] * 2 + ["w-000002", "w-000003"]
    files.free(extents[:2])
    assert names(tmp_path) == ["w-000002.segment", "w-000003.segment"]


def test_pages_use_freed_slots_again_the_first_ones_first(tmp_path: Path) -> None:
    files = Pages(tmp_path, "w", RECORD_BYTES)
    extents = files.append([record(number) for number in range(6)])
    files.free([extents[4], extents[1], extents[2]])
    again = files.append([record(10, 5), record(11, RECORD_BYTES + 1), record(12)])
    # The second one needs two slots next to each other.
    slots = [extent.offset // RECORD_BYTES for extent in again]
    assert slots == [1, 6, 2]
    assert files.file_bytes == 8 * RECORD_BYTES
    assert read(files, again) == [record(10, 5), record(11, RECORD_BYTES + 1), record(12)]


def test_a_file_of_pages_is_cut_when_much_of_its_end_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "SHRINK_BYTES", 3 * RECORD_BYTES)
    files = Pages(tmp_path, "w", RECORD_BYTES)
    extents = files.append([record(number) for number in range(6)])
    files.free(extents[4:])
    assert files.file_bytes == 6 * RECORD_BYTES
    files.free(extents[1:4])
    assert files.file_bytes == RECORD_BYTES == (tmp_path / extents[0].file).stat().st_size
    after = files.append([record(7), record(8)])
    assert read(files, [extents[0], *after]) == [record(0), record(7), record(8)]


def test_slots_of_an_adopted_file_are_used_again_where_they_are_of_this_size(
    tmp_path: Path,
) -> None:
    first = Pages(tmp_path, "first", RECORD_BYTES)
    old = first.append([record(number) for number in range(4)])
    first.close(delete=False)

    second = Pages(tmp_path, "second", RECORD_BYTES)
    second.adopt([old[1], old[3]])
    new = second.append([record(10), record(11), record(12)])
    assert [extent.file == old[0].file for extent in new] == [True, True, False]
    kept = [old[1], old[3], *new]
    assert read(second, kept) == [record(number) for number in (1, 3, 10, 11, 12)]
    second.close(delete=False)

    third = Pages(tmp_path, "third", RECORD_BYTES + 1)
    third.adopt(kept)
    assert third.append([record(13)])[0].file.startswith("third")
    assert read(third, kept) == [record(number) for number in (1, 3, 10, 11, 12)]


def journal_half_dead(folder: Path) -> tuple[Journal, list[Extent]]:
    """Ten records of which four live."""
    files = Journal(folder, "w")
    extents = files.append([record(number) for number in range(10)])
    files.free(extents[:5])
    assert files.compact() == {}
    files.free(extents[7:8])
    return files, [*extents[5:7], *extents[8:]]


def test_a_journal_is_written_anew_when_more_than_half_of_it_is_dead(tmp_path: Path) -> None:
    files, kept = journal_half_dead(tmp_path)
    moved = files.compact()
    assert list(moved) == kept
    assert names(tmp_path) == ["w-000002.journal"]
    assert files.file_bytes == files.live_bytes == 4 * RECORD_BYTES
    wanted = [record(number) for number in (5, 6, 8, 9)]
    assert read(files, list(moved.values())) == wanted
    # A reader may not have heard yet.
    assert read(files, kept) == wanted

    after = files.append([record(20)])
    assert names(tmp_path) == ["w-000002.journal"]
    files.free([kept[0], moved[kept[1]]])
    rest = [moved[kept[2]], moved[kept[3]], *after]
    assert read(files, rest) == [record(8), record(9), record(20)]
    files.free(rest)
    assert names(tmp_path) == []


def test_an_index_hears_of_new_places_while_the_old_ones_are_still_there(tmp_path: Path) -> None:
    files, kept = journal_half_dead(tmp_path)
    heard = []

    def committed(moved: object) -> None:
        heard.append(moved)
        assert names(tmp_path) == ["w-000001.journal", "w-000002.journal"]
        assert read(files, kept) == [record(number) for number in (5, 6, 8, 9)]

    assert files.compact(committed) == heard[0]
    assert names(tmp_path) == ["w-000002.journal"]


def test_where_the_index_fails_nothing_has_moved(tmp_path: Path) -> None:
    files, kept = journal_half_dead(tmp_path)

    def committed(_: object) -> None:
        raise RuntimeError("database is locked")

    with pytest.raises(RuntimeError, match="locked"):
        files.compact(committed)
    assert names(tmp_path) == ["w-000001.journal"]
    assert read(files, kept) == [record(number) for number in (5, 6, 8, 9)]
    assert list(files.compact()) == kept


def test_where_the_copy_does_not_fit_nothing_has_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, kept = journal_half_dead(tmp_path)

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwritev", refuse)
        with pytest.raises(OutOfMemory):
            files.compact()
    assert names(tmp_path) == ["w-000001.journal"]
    assert read(files, kept) == [record(number) for number in (5, 6, 8, 9)]


def test_damage_moves_along_and_shows_when_it_is_read(tmp_path: Path) -> None:
    files, kept = journal_half_dead(tmp_path)
    path = tmp_path / kept[0].file
    path.write_bytes(path.read_bytes()[: kept[3].offset + 3])
    moved = files.compact()
    assert read(files, kept[:3]) == [record(number) for number in (5, 6, 8)]
    with pytest.raises(Exception, match=f"{moved[kept[3]].file}.*not those that were written"):
        read(files, kept[3:])


def test_layouts_go_by_their_names(tmp_path: Path) -> None:
    for layout in ("chunks", "pages", "segments", "journal"):
        files = open_layout(layout, tmp_path / layout, record_bytes=RECORD_BYTES, writer="w")
        extents = files.append([record(1)])
        assert read(files, extents) == [record(1)]
    with pytest.raises(ValueError, match="'ring' keeps nothing in files"):
        open_layout("ring", tmp_path, record_bytes=1, writer="w")
    for writer in ("", "../w", "a b"):
        with pytest.raises(ValueError, match="cannot begin a file name"):
            open_layout("pages", tmp_path, record_bytes=1, writer=writer)
    with pytest.raises(ValueError, match="at least one byte, not 0"):
        open_layout("pages", tmp_path, record_bytes=0, writer="w")
