from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.profile import bandwidth
from ollm_widgets.planning.profile.bandwidth import Bandwidth, bandwidth_of

CPU = Device("cpu", "cpu", "Remembered CPU", 1, 1, False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Bandwidth]:
    """Bandwidths that the next measurements give, in order."""
    results = [Bandwidth(1e10, 1e11), Bandwidth(2e10, 2e11)]
    monkeypatch.setattr(bandwidth, "_measure_cpu", lambda: results.pop(0))
    return results


def test_a_measurement_gives_numbers_above_zero(folder: Path) -> None:
    found = bandwidth_of(CPU)
    assert found is not None
    assert found.read_bytes_per_s > 1e6
    assert found.flops_per_s > 1e6


def test_it_is_measured_once_and_remembered_on_disk(
    folder: Path, measured: list[Bandwidth]
) -> None:
    first = bandwidth_of(CPU)
    bandwidth._remembered.cache_clear()
    assert bandwidth_of(CPU) == first
    assert len(measured) == 1


def test_another_cpu_is_measured_anew(folder: Path, measured: list[Bandwidth]) -> None:
    bandwidth_of(CPU)
    assert bandwidth_of(replace(CPU, title="Another CPU")) == Bandwidth(2e10, 2e11)
    devices = json.loads((folder / "bandwidth.json").read_text())["devices"]
    assert len(devices) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"version": 99, "devices": {}}',
        '{"version": 1, "devices": [1]}',
        '{"version": 1, "devices": {"KEY": {"read_bytes_per_s": "fast"}}}',
        '{"version": 1, "devices": {"KEY": {"read_bytes_per_s": 0, "flops_per_s": 1}}}',
        '{"version": 1, "devices": {"KEY": {"read_bytes_per_s": NaN, "flops_per_s": 1}}}',
        '{"version": 1, "devices": {"KEY": 5}}',
        "\x00\xff",
    ],
)
def test_a_damaged_file_is_measured_over(
    folder: Path, measured: list[Bandwidth], damage: str
) -> None:
    bandwidth_of(CPU)
    path = folder / "bandwidth.json"
    key = next(iter(json.loads(path.read_text())["devices"]))
    path.write_bytes(damage.replace("KEY", key).encode("latin-1"))
    bandwidth._remembered.cache_clear()
    assert bandwidth_of(CPU) == Bandwidth(2e10, 2e11)
    assert len(json.loads(path.read_text())["devices"]) == 1


def test_a_folder_that_cannot_be_written_costs_only_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Bandwidth]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert bandwidth_of(CPU) == Bandwidth(1e10, 1e11)
