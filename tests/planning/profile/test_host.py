from __future__ import annotations

from pathlib import Path

import pytest

from ollm_widgets.planning.profile.host import last_cache_bytes, measure_host


def cache_of(folder: Path, cpu: int, shared_by: str, size: str) -> None:
    index = folder / f"cpu{cpu}" / "cache" / "index3"
    index.mkdir(parents=True)
    (index / "shared_cpu_list").write_text(f"{shared_by}\n")
    (index / "size").write_text(f"{size}\n")


def test_caches_that_cores_share_count_once(tmp_path: Path) -> None:
    for cpu in (0, 1):
        cache_of(tmp_path, cpu, "0-1", "32768K")
    cache_of(tmp_path, 2, "2-3", "32768K")
    assert last_cache_bytes(tmp_path) == 64 << 20


@pytest.mark.parametrize("size", ["", "many", "-1K", "K"])
def test_an_unknown_cache_counts_as_none(tmp_path: Path, size: str) -> None:
    cache_of(tmp_path, 0, "0", size)
    (tmp_path / "cpu1" / "cache" / "index3").mkdir(parents=True)
    assert last_cache_bytes(tmp_path) == 0
    assert last_cache_bytes(tmp_path / "nowhere") == 0


def test_an_operation_of_torch_is_of_the_size_that_numpy_suggests() -> None:
    guessed, measured = measure_host().launch_s, measure_host(with_torch=True).launch_s
    assert guessed is not None
    assert measured is not None
    # An order of magnitude: this machine may be busy with one of them.
    assert 0.1 < guessed / measured < 10
