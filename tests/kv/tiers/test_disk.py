"""What a tiered cache does when its disk fails, and what it leaves behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ollm_widgets.errors import KVPageError, OutOfMemory, RuntimeClosedError
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.codecs import FullCodec
from ollm_widgets.kv.layouts.records import RecordFiles
from ollm_widgets.kv.tiers import disk as disk_module
from ollm_widgets.kv.tiers.folder import fresh_folder, sweep
from ollm_widgets.kv.tiers.tiered_cache import TieredCache
from tests.kv.tiers.tiered import cache_of

STRATEGIES = ("chunked", "paged", "streamed-segmented", "log-structured-journal")


def states(tokens: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 2, tokens, 4), torch.randn(1, 2, tokens, 4)


def fill(cache: TieredCache, tokens: int = 24) -> None:
    for index in range(len(cache.layers)):
        cache.update(*states(tokens), index)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("kv-")}


class FullDisk:
    """Record files whose disk has no room while `full` is set."""

    full = True

    def __init__(self, files: RecordFiles) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def append(self, payloads: Sequence[Any]) -> Any:
        if FullDisk.full:
            raise OutOfMemory("0 B are left.", tier="disk", needed_bytes=1, free_bytes=0)
        return self._files.append(payloads)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> type[FullDisk]:
    opened = disk_module.open_layout
    monkeypatch.setattr(disk_module, "open_layout", lambda *a, **k: FullDisk(opened(*a, **k)))
    monkeypatch.setattr(FullDisk, "full", True)
    return FullDisk


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_full_disk_is_told_by_the_next_update_and_nothing_is_lost(
    strategy: str, tmp_path: Path, full_disk: type[FullDisk]
) -> None:
    with cache_of(strategy, KVBudget(0), tmp_path) as cache:
        keys, values = states()
        layer = cache.tiered_layers()[0]
        layer.append_tokens(keys, values)
        with pytest.raises(OutOfMemory, match="0 B are left"):
            cache.flush()
        assert cache._store.opened is not None
        cache._store.opened.disk.drain()
        with pytest.raises(OutOfMemory, match="0 B are left"):
            cache.update(*states(3), 0)
        assert layer.get_seq_length() == 24
        assert layer.keys is not None
        assert torch.equal(layer.keys, keys)
        full_disk.full = False
        cache.update(*states(3), 0)
        cache.flush()
        assert cache.stats().disk_bytes > 0
        assert torch.equal(layer.read_tokens(0, 24)[1], values)


def test_a_cache_whose_disk_stays_full_can_be_closed(
    tmp_path: Path, full_disk: type[FullDisk]
) -> None:
    cache = cache_of("paged", KVBudget(0), tmp_path)
    cache.tiered_layers()[0].append_tokens(*states(400))
    with pytest.raises(OutOfMemory):
        cache.flush()
    cache.close()
    assert not threads()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strategy", [*STRATEGIES, "tiered-write-back"])
def test_nothing_is_lost_while_the_folder_cannot_be_made(strategy: str, tmp_path: Path) -> None:
    parent = tmp_path / "kv"
    parent.write_bytes(b"a file is in its way")
    with cache_of(strategy, KVBudget(0), parent, 1) as cache:
        keys, values = states(40)
        cache.update(keys[:, :, :30], values[:, :, :30], 0)
        for _ in range(2):
            with pytest.raises(OSError, match="kv"):
                cache.flush()
            with pytest.raises(OSError, match="kv"):
                cache.update(*states(9), 0)
        assert cache.get_seq_length() == 30
        parent.unlink()
        given, _ = cache.update(keys[:, :, 30:], values[:, :, 30:], 0)
        assert torch.equal(given, keys)
        cache.flush()
        assert cache.stats().disk_bytes > 0


def test_tokens_whose_page_cannot_be_encoded_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise MemoryError("no room for a page")

    with cache_of("paged", KVBudget(0), tmp_path, 1) as cache:
        keys, values = states(12)
        cache.update(keys[:, :, :3], values[:, :, :3], 0)
        with monkeypatch.context() as patched:
            patched.setattr(FullCodec, "encode", fail)
            with pytest.raises(MemoryError):
                cache.update(*states(9), 0)
        assert cache.get_seq_length() == cache.tiered_layers()[0].hot_tokens == 3
        for start, stop in ((3, 6), (6, 12)):
            given, _ = cache.update(keys[:, :, start:stop], values[:, :, start:stop], 0)
            assert torch.equal(given, keys[:, :, :stop])
        assert cache.tiered_layers()[0].cold_tokens > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_file_that_was_cut_off_gives_an_error_with_its_name(
    strategy: str, tmp_path: Path
) -> None:
    with cache_of(strategy, KVBudget(0), tmp_path) as cache:
        fill(cache)
        cache.flush()
        assert cache.folder is not None
        for path in cache.folder.iterdir():
            os.truncate(path, path.stat().st_size // 2)
        before = [layer.get_seq_length() for layer in cache.tiered_layers()]
        names = "|".join(path.name for path in cache.folder.iterdir())
        with pytest.raises(KVPageError, match=names):
            fill(cache, 1)
        after = [layer.get_seq_length() for layer in cache.tiered_layers()]
        assert sum(after) <= sum(before) + 2
        with pytest.raises(KVPageError, match=names):
            _ = cache.tiered_layers()[-1].keys
        # What is there from now on is whole again.
        cache.reset()
        fill(cache)
        cache.flush()
        fill(cache, 1)
        assert cache.get_seq_length() == 25


def test_a_byte_that_has_changed_is_never_read_as_good(tmp_path: Path) -> None:
    with cache_of("paged", KVBudget(0), tmp_path) as cache:
        fill(cache)
        cache.flush()
        assert cache.folder is not None
        for path in cache.folder.iterdir():
            content = bytearray(path.read_bytes())
            content[len(content) // 3] ^= 1
            path.write_bytes(content)
        with pytest.raises(KVPageError):
            fill(cache, 1)


def test_closing_ends_the_threads_and_removes_the_files(tmp_path: Path) -> None:
    cache = cache_of("chunked", KVBudget(0), tmp_path)
    fill(cache)
    cache.flush()
    fill(cache, 1)
    assert threads() == {"kv-reader", "kv-writer"}
    assert cache.folder is not None
    assert cache.folder.parent == tmp_path
    cache.close()
    cache.close()
    assert not threads()
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeClosedError):
        fill(cache, 1)


def test_a_forgotten_cache_closes_itself(tmp_path: Path) -> None:
    cache = cache_of("tiered-write-back", KVBudget(0), tmp_path)
    fill(cache)
    fill(cache, 1)
    assert threads()
    del cache
    gc.collect()
    assert not threads()
    assert not list(tmp_path.iterdir())


def test_a_cache_without_cold_tokens_starts_no_thread_and_makes_no_file(tmp_path: Path) -> None:
    with cache_of("paged", KVBudget(), tmp_path) as cache:
        fill(cache, 5000)
        fill(cache, 1)
        assert not threads()
        assert not list(tmp_path.iterdir())


def test_folders_of_dead_processes_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path,
) -> None:
    own = fresh_folder(tmp_path)
    other = tmp_path / "something-else"
    other.mkdir()
    started = int(psutil.Process().create_time())
    reused = tmp_path / f"live-{os.getpid()}-{started - 1000}-0123456789ab"
    dead = tmp_path / f"live-{_free_process_id()}-{started}-0123456789ab"
    for folder in (reused, dead):
        folder.mkdir()
        (folder / "pages").write_bytes(b"left behind")
    assert sorted(sweep(tmp_path)) == sorted([reused, dead])
    assert own.exists()
    assert other.exists()


def _free_process_id() -> int:
    return next(number for number in range(2**22 - 1, 1, -1) if not psutil.pid_exists(number))
