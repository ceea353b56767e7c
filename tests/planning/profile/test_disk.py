from __future__ import annotations

import os
from pathlib import Path

import pytest

from ollm_widgets.planning.profile import file_reading
from ollm_widgets.planning.profile.disk import (
    DiskSpeeds,
    disk_speeds_of,
    known_disk_speeds,
    measure_disk,
)
from ollm_widgets.planning.profile.file_reading import read_speeds
from ollm_widgets.planning.profile.identity import disk_key
from ollm_widgets.planning.profile.remembered import profile_file
from tests.planning.profile.conftest import another_process

BYTES = 40 << 20


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a model, one of them large enough to measure with."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(1 << 20) * (BYTES >> 20))
    return folder


def test_both_speeds_come_from_the_largest_file_and_are_remembered(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = disk_speeds_of(model)
    assert first is not None
    assert first.page_cache_bytes_per_s is not None
    assert first.page_cache_bytes_per_s > 1e6
    another_process()
    monkeypatch.setattr(file_reading, "read_speeds", lambda path: (1.0, 1.0))
    assert disk_speeds_of(model) == first
    assert known_disk_speeds(model) == first


def test_past_the_page_cache_is_measured_where_the_file_system_reads_that_way(
    folder: Path, model: Path
) -> None:
    try:
        os.close(os.open(model / "model.safetensors", os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system does not read past its page cache")
    found = disk_speeds_of(model)
    assert found is not None
    assert found.disk_bytes_per_s is not None
    assert found.disk_bytes_per_s > 1e5


def test_a_file_system_that_refuses_leaves_the_disk_unknown(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_reading, "_DIRECT_FLAG", os.O_DIRECTORY)  # fails on any file
    found = disk_speeds_of(model)
    assert found is not None
    assert found.disk_bytes_per_s is None
    assert found.page_cache_bytes_per_s is not None


def test_a_model_that_is_one_file_and_one_that_is_linked_are_measured(
    folder: Path, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    snapshot = tmp_path_factory.mktemp("snapshot")
    (snapshot / "model.safetensors").symlink_to(model / "model.safetensors")
    linked = disk_speeds_of(snapshot)
    assert linked is not None
    assert disk_speeds_of(model / "model.safetensors") == linked


def test_without_a_large_file_there_is_no_measurement(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "small.safetensors").write_bytes(b"0" * 1000)
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert disk_speeds_of(tmp_path) is None
    assert disk_speeds_of(tmp_path / "nowhere") is None
    assert profile_file().recall_all("disks") == {}


def test_what_is_known_of_a_disk_serves_models_that_are_too_small(
    folder: Path, model: Path, tmp_path: Path
) -> None:
    key = disk_key(tmp_path)
    assert key is not None
    profile_file().remember("disks", key, {"disk_bytes_per_s": 2e9})
    assert disk_speeds_of(tmp_path) == DiskSpeeds(2e9)


def test_a_file_that_cannot_be_read_is_not_tried_at_each_plan(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    def fails(path: Path) -> tuple[None, None]:
        tried.append(path)
        return None, None

    monkeypatch.setattr(file_reading, "read_speeds", fails)
    assert disk_speeds_of(model) == DiskSpeeds()
    assert disk_speeds_of(model) == DiskSpeeds()
    assert len(tried) == 1


def test_measuring_anew_replaces_what_was_known(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = [(1e9, 1e10), (2e9, 2e10)]
    monkeypatch.setattr(file_reading, "read_speeds", lambda path: speeds.pop(0))
    assert disk_speeds_of(model) == DiskSpeeds(1e9, 1e10)
    measure_disk(model / "model.safetensors")
    assert known_disk_speeds(model) == DiskSpeeds(2e9, 2e10)


def test_a_file_that_shrinks_or_is_gone_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert read_speeds(path) == (None, None)
    path.write_bytes(b"")
    assert read_speeds(path) == (None, None)
