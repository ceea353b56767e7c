"""Whatever happens to the files of a store, nothing wrong comes out of it."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.persistent.archive import RECORDS_NAME
from ollm_widgets.kv.persistent.folders import MODEL_NAME
from ollm_widgets.kv.persistent.index import INDEX_NAME, SCHEMA_VERSION
from ollm_widgets.kv.persistent.neighbours import ASIDE
from ollm_widgets.kv.persistent.store import PrefixStore
from tests.kv.persistent.prefixes import (
    cache_of,
    fingerprint,
    ids_of,
    open_store,
    restores_rightly,
    run,
    tiny,
)

IDS = ids_of(0, 300)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store that holds `IDS`."""
    with open_store(tmp_path) as store:
        store.save(IDS, cache_of(IDS))
    return tmp_path


def folder_of(root: Path) -> Path:
    return root / fingerprint().digest


def records(root: Path) -> list[Path]:
    return sorted((folder_of(root) / RECORDS_NAME).iterdir())


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))


def begins_anew(root: Path, why: str) -> None:
    """The store is set aside with a note, and a new one works."""
    with open_store(root) as store:
        assert restores_rightly(store, IDS) == 0
        (note,) = store.notes
        assert why in note
        assert ASIDE in note
        assert store.save(IDS, cache_of(IDS)).is_complete
        assert restores_rightly(store, IDS) == len(IDS)
    assert (root / (fingerprint().digest + ASIDE)).exists()
    with open_store(root) as store:
        assert store.notes == ()
        assert restores_rightly(store, IDS) == len(IDS)


def test_a_damaged_record_shortens_the_prefix_and_is_written_again(root: Path) -> None:
    (path,) = records(root)
    flip(path, path.stat().st_size // 2)
    with open_store(root) as store:
        assert store.match(IDS).tokens == 300
        assert restores_rightly(store, IDS) == 128
        assert store.match(IDS).tokens == 128
        assert store.save(IDS, cache_of(IDS)).new_blocks == 3
        assert restores_rightly(store, IDS) == 300


@pytest.mark.parametrize("left", [0, 1, 1000, 20_000])
def test_a_torn_file_is_a_shorter_prefix(root: Path, left: int) -> None:
    (path,) = records(root)
    os.truncate(path, left)
    with open_store(root) as store:
        assert restores_rightly(store, IDS) == store.match(IDS).tokens < 300
        assert store.save(IDS, cache_of(IDS)).is_complete
        assert restores_rightly(store, IDS) == 300


def test_a_file_that_is_gone_is_a_miss(root: Path) -> None:
    records(root)[0].unlink()
    with open_store(root) as store:
        assert restores_rightly(store, IDS) == 0
        assert store.save(IDS, cache_of(IDS)).is_complete
        assert restores_rightly(store, IDS) == 300


def test_a_record_in_the_place_of_another_is_not_taken_for_it(root: Path) -> None:
    with sqlite3.connect(folder_of(root) / INDEX_NAME) as index:
        rows = index.execute("SELECT block, offset, checksum FROM parts ORDER BY block").fetchall()
        for (block, _, _), (_, offset, checksum) in zip(rows[:2], rows[1::-1], strict=True):
            index.execute(
                "UPDATE parts SET offset = ?, checksum = ? WHERE block = ?",
                (offset, checksum, block),
            )
    index.close()
    with open_store(root) as store:
        assert restores_rightly(store, IDS) == 0


def test_damaged_states_are_a_miss(tmp_path: Path) -> None:
    model = tiny("qwen3_next")
    cache = DynamicCache(config=model.config)
    with open_store(tmp_path) as store:
        run(model, cache, IDS[:50], 0)
        store.save(IDS[:50], cache)
        run(model, cache, IDS[50:100], 50)
        store.save(IDS[:100], cache)
        (path,) = records(tmp_path)
        flip(path, path.stat().st_size - 10)
        again = DynamicCache(config=model.config)
        with store.match(IDS) as match:
            assert match.tokens == 100
            assert store.restore(match, again) == 50
        assert again.get_seq_length() == 50


@pytest.mark.parametrize(
    "content",
    [b"", b"no database", Random(5).randbytes(5000), b"SQLite format 3\0" + bytes(5000)],
    ids=["nothing", "text", "noise", "a header"],
)
def test_garbage_in_place_of_the_index_is_set_aside(root: Path, content: bytes) -> None:
    folder = folder_of(root)
    for path in folder.glob(f"{INDEX_NAME}*"):
        path.unlink()
    (folder / INDEX_NAME).write_bytes(content)
    if content:
        begins_anew(root, "cannot be read")
    else:
        # An empty file is what a process leaves that was killed before it wrote anything.
        with open_store(root) as store:
            assert restores_rightly(store, IDS) == 0
            assert store.save(IDS, cache_of(IDS)).is_complete


def test_an_index_of_another_version_is_set_aside(root: Path) -> None:
    with sqlite3.connect(folder_of(root) / INDEX_NAME) as index:
        index.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    index.close()
    begins_anew(root, f"format {SCHEMA_VERSION + 1}")


def test_an_index_that_lacks_something_is_set_aside(root: Path) -> None:
    with sqlite3.connect(folder_of(root) / INDEX_NAME) as index:
        index.execute("ALTER TABLE parts DROP COLUMN first")
    index.close()
    begins_anew(root, "no such column")


def test_another_programs_database_is_set_aside(root: Path) -> None:
    path = folder_of(root) / INDEX_NAME
    for each in path.parent.glob(f"{INDEX_NAME}*"):
        each.unlink()
    with sqlite3.connect(path) as index:
        index.execute("CREATE TABLE recipes (name TEXT)")
    index.close()
    begins_anew(root, "another program")


def test_a_file_in_place_of_the_folder_is_set_aside(root: Path) -> None:
    shutil.rmtree(folder_of(root))
    folder_of(root).write_text("hello")
    begins_anew(root, "something else")


def test_garbage_beside_the_records_harms_nothing(root: Path) -> None:
    folder = folder_of(root)
    (folder / RECORDS_NAME / "notes.txt").write_text("mine")
    (folder / RECORDS_NAME / "1-1-aa-000001.segment").write_bytes(os.urandom(1000))
    (folder / MODEL_NAME).write_bytes(os.urandom(50))
    with open_store(root) as store:
        assert restores_rightly(store, IDS) == 300
        assert store.save(IDS[:10] + IDS, cache_of(IDS[:10] + IDS)).is_complete
    assert (folder / RECORDS_NAME / "notes.txt").read_text() == "mine"
    # What a dead writer has begun and not entered is removed.
    assert not (folder / RECORDS_NAME / "1-1-aa-000001.segment").exists()


def test_an_index_that_is_damaged_while_it_is_open_is_set_aside(root: Path) -> None:
    store = open_store(root)
    store.save(IDS[:100], cache_of(IDS[:100]))
    path = folder_of(root) / INDEX_NAME
    assert store._archive is not None
    store._archive._index.rows("PRAGMA wal_checkpoint (TRUNCATE)")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(os.urandom(size))
    store._archive._index.rows("PRAGMA cache_size = 0")
    store._archive._index.rows("PRAGMA shrink_memory")
    assert restores_rightly(store, IDS) in (0, 300)
    assert restores_rightly(store, IDS) in (0, 300)
    store.save(IDS, cache_of(IDS))
    store.close()
    with open_store(root) as store:
        restores_rightly(store, IDS)
        assert store.save(IDS, cache_of(IDS)).is_complete
        assert restores_rightly(store, IDS) == 300


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=64)), min_size=1),
    of_index=st.booleans(),
)
def test_bytes_changed_anywhere_give_no_wrong_answer_and_no_error(
    places: list[tuple[float, bytes]],
    of_index: bool,
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    copy = tmp_path_factory.mktemp("copy") / "root"
    shutil.copytree(root, copy)
    path = folder_of(copy) / INDEX_NAME if of_index else records(copy)[0]
    size = path.stat().st_size
    with path.open("r+b") as file:
        for share, content in places:
            file.seek(int(share * (size - 1)))
            file.write(content)
    with open_store(copy) as store:
        restores_rightly(store, IDS)
        restores_rightly(store, IDS[:200] + ids_of(3, 50))
        store.save(IDS, cache_of(IDS))
        restores_rightly(store, IDS)
    with open_store(copy) as store:
        store.save(IDS, cache_of(IDS))
        restores_rightly(store, IDS)


def test_a_full_disk_ends_a_save_and_keeps_what_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollm_widgets.kv.persistent.saving._BATCH_BYTES", 30_000)
    written = 0
    pwritev = os.pwritev

    def until_full(file: int, parts: list[memoryview], offset: int) -> int:
        nonlocal written
        written += sum(map(len, parts))
        if written > 70_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwritev(file, parts, offset)

    monkeypatch.setattr(os, "pwritev", until_full)
    with open_store(tmp_path) as store:
        result = store.save(IDS, cache_of(IDS))
        assert "do not fit" in result.reason
        assert 0 < result.tokens < 300
        assert restores_rightly(store, IDS) == result.tokens
        monkeypatch.undo()
        assert store.save(IDS, cache_of(IDS)).is_complete
        assert restores_rightly(store, IDS) == 300


def test_a_disk_that_is_full_for_the_index_ends_a_save_too(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(IDS[:64], cache_of(IDS[:64]))
        assert store._archive is not None
        index = store._archive._index
        ((pages,),) = index.rows("PRAGMA page_count")
        index.rows(f"PRAGMA max_page_count = {pages}")
        long = ids_of(1, 64 * 120)
        result = store.save(long, cache_of(long, layers=1))
        assert result.reason == "The disk is full."
        assert restores_rightly(store, IDS) == 64
        index.rows("PRAGMA max_page_count = 1000000")
        assert store.save(long, cache_of(long, layers=1)).is_complete


def test_an_index_that_another_process_holds_is_a_miss(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollm_widgets.kv.persistent.index._BUSY_S", 0.05)
    with open_store(root) as store:
        other = sqlite3.connect(folder_of(root) / INDEX_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store.match(IDS).tokens == 0
        assert "in use" in store.save([5, *IDS], cache_of([5, *IDS])).reason
        other.execute("ROLLBACK")
        other.close()
        assert restores_rightly(store, IDS) == 300


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KVStrategyError, match="No KV pages can be kept"):
        open_store(tmp_path / "file" / "root")


def test_the_codec_must_be_that_of_the_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="int8"):
        PrefixStore.open(tmp_path, fingerprint(), layout="pages", codec="int8")
