"""A store stays below its limit, and what is used stays in it."""

from __future__ import annotations

from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import get_args

import pytest

from ollm_widgets.kv.persistent.archive import RECORDS_NAME, BlockArchive
from ollm_widgets.kv.persistent.chain import chain_of, pack_ids
from ollm_widgets.kv.persistent.index import INDEX_NAME
from ollm_widgets.kv.processes import is_alive, this_process
from ollm_widgets.planning.kv_presets import KVLayout
from tests.kv.persistent.prefixes import (
    cache_of,
    fingerprint,
    ids_of,
    open_store,
    restores_rightly,
)
from tests.kv.persistent.writing import ROOT, conversation, save

LAYOUTS = sorted(set(get_args(KVLayout)) - {"contiguous", "ring"})
# Most that a conversation of 200 tokens takes: four records in slots.
BYTES = 4 * 32 * 1024


def disk_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob(f"{RECORDS_NAME}/*"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second later."""
    seconds = iter(range(1_000_000))
    monkeypatch.setattr("ollm_widgets.kv.persistent.blocks.time.time", lambda: next(seconds))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_stay_below_the_limit(layout: KVLayout, tmp_path: Path) -> None:
    limit = 10 * BYTES
    with open_store(tmp_path, layout=layout, limit_bytes=limit) as store:
        for seed in range(60):
            ids = ids_of(seed, 200)
            result = store.save(ids, cache_of(ids))
            assert result.is_complete, result
            assert disk_bytes(tmp_path) <= limit
            assert restores_rightly(store, ids) == 200
        kept = sum(restores_rightly(store, ids_of(seed, 200)) > 0 for seed in range(60))
        assert kept >= 3


@pytest.mark.usefixtures("clock")
def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    with open_store(tmp_path, layout="pages", limit_bytes=6 * BYTES) as store:
        for seed in range(5):
            ids = ids_of(seed, 200)
            store.save(ids, cache_of(ids))
        assert restores_rightly(store, ids_of(0, 200)) == 200
        for seed in range(5, 8):
            ids = ids_of(seed, 200)
            store.save(ids, cache_of(ids))
        assert restores_rightly(store, ids_of(0, 200)) == 200
        assert restores_rightly(store, ids_of(1, 200)) < 200
        assert restores_rightly(store, ids_of(7, 200)) == 200


@pytest.mark.usefixtures("clock")
def test_the_end_of_a_conversation_goes_before_its_beginning(tmp_path: Path) -> None:
    trunk = ids_of(0, 192)
    with open_store(tmp_path, layout="pages", limit_bytes=5 * BYTES) as store:
        for seed in range(1, 8):
            branch = trunk + ids_of(seed, 150)
            assert store.save(branch, cache_of(branch)).is_complete
        assert [
            restores_rightly(store, trunk + ids_of(seed, 150)) >= 192 for seed in range(1, 8)
        ] == [True] * 7


def test_what_does_not_fit_is_kept_as_far_as_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollm_widgets.kv.persistent.saving._BATCH_BYTES", 1)
    ids = ids_of(0, 640)
    with open_store(tmp_path, limit_bytes=BYTES) as store:
        result = store.save(ids, cache_of(ids))
        assert "over its limit" in result.reason
        assert 0 < result.tokens < 640
        assert restores_rightly(store, ids) == result.tokens
        assert disk_bytes(tmp_path) <= BYTES


def test_what_is_matched_stays_until_it_is_released(tmp_path: Path) -> None:
    held = ids_of(0, 200)
    with open_store(tmp_path, layout="pages", limit_bytes=3 * BYTES) as store:
        store.save(held, cache_of(held))
        match = store.match(held)
        for seed in range(1, 20):
            ids = ids_of(seed, 200)
            store.save(ids, cache_of(ids))
        assert restores_rightly(store, held) == 200
        match.release()
        match.release()
        for seed in range(20, 40):
            ids = ids_of(seed, 200)
            store.save(ids, cache_of(ids))
        assert restores_rightly(store, held) < 200


def pin_and_wait(folder: Path, number: int, channel: Connection) -> None:
    """Pin what is there of a conversation; say so, and wait to be killed."""
    archive = BlockArchive(folder, "segments")
    found = archive.find(chain_of(ROOT, pack_ids(conversation(number))))
    channel.send(archive.pin(found[-1].number))
    channel.recv()


def test_what_another_process_uses_stays_until_that_ends(
    tmp_path: Path, forks: ForkServerContext
) -> None:
    archive = BlockArchive(tmp_path, "segments")
    held = conversation(0)
    assert save(archive, held)
    archive.close()
    archive = BlockArchive(tmp_path, "segments", limit_bytes=1)
    here, there = forks.Pipe()
    process = forks.Process(target=pin_and_wait, args=(tmp_path, 0, there))
    process.start()
    assert here.recv() is not None
    whole = len(chain_of(ROOT, pack_ids(held)))

    def left_by_a_collection() -> int:
        archive.make_room([1])
        return len(archive.find(chain_of(ROOT, pack_ids(held))))

    assert left_by_a_collection() == whole
    process.kill()
    process.join()
    assert left_by_a_collection() == 0
    archive.close()


def test_files_of_processes_that_ended_are_taken_over(tmp_path: Path) -> None:
    with open_store(tmp_path, limit_bytes=5 * BYTES) as store:
        first = ids_of(0, 200)
        store.save(first, cache_of(first))
    with open_store(tmp_path, limit_bytes=5 * BYTES) as store:
        for seed in range(1, 30):
            ids = ids_of(seed, 200)
            assert store.save(ids, cache_of(ids)).is_complete
        assert disk_bytes(tmp_path) <= 5 * BYTES
        assert restores_rightly(store, first) < 200


def test_a_process_is_told_from_another_with_its_number(forks: ForkServerContext) -> None:
    assert is_alive(this_process())
    assert is_alive(this_process() + "-abc")
    number, _, start = this_process().partition("-")
    assert not is_alive(f"{number}-{int(start) - 1000}")
    for wrong in ("", "x", "1", "-", "1-x", f"{2**30}-5"):
        assert not is_alive(wrong)
    receiver, sender = forks.Pipe(duplex=False)
    process = forks.Process(target=say_who, args=(sender,))
    process.start()
    other = receiver.recv()
    process.join()
    assert other != this_process()
    assert not is_alive(other)


def say_who(sender: Connection) -> None:
    """Send the name of this process."""
    sender.send(this_process())


@pytest.mark.usefixtures("clock")
def test_models_share_the_limit_and_the_one_in_use_stays(tmp_path: Path) -> None:
    limit = 7 * BYTES
    for model in ("first", "second"):
        with open_store(tmp_path, model, limit_bytes=limit) as store:
            for seed in range(6):
                ids = ids_of(seed, 200)
                store.save(ids, cache_of(ids))
    busy = open_store(tmp_path, "busy", limit_bytes=limit)
    held = ids_of(0, 200)
    busy.save(held, cache_of(held))
    with open_store(tmp_path, "third", limit_bytes=limit) as store:
        for seed in range(9):
            ids = ids_of(seed, 200)
            assert store.save(ids, cache_of(ids)).is_complete
            assert disk_bytes(tmp_path) <= limit
    kept = {
        model: sum(open_store(tmp_path, model).match(ids_of(seed, 200)).tokens for seed in range(6))
        for model in ("first", "second", "third")
    }
    assert kept["first"] <= kept["second"] < kept["third"] == 1200
    assert restores_rightly(busy, held) == 200
    busy.close()


def test_what_was_set_aside_makes_room_first(tmp_path: Path) -> None:
    limit = 6 * BYTES
    with open_store(tmp_path, limit_bytes=limit) as store:
        for seed in range(3):
            store.save(ids_of(seed, 200), cache_of(ids_of(seed, 200)))
    (tmp_path / fingerprint().digest / INDEX_NAME).write_bytes(b"garbage" * 1000)
    with open_store(tmp_path, limit_bytes=limit) as store:
        assert store.notes
        for seed in range(8):
            ids = ids_of(seed, 200)
            assert store.save(ids, cache_of(ids)).is_complete
            assert disk_bytes(tmp_path) <= limit
        assert restores_rightly(store, ids) == 200
    assert not list(tmp_path.glob("*.aside"))
