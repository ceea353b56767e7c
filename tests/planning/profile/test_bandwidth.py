from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.profile import bandwidth, host
from ollm_widgets.planning.profile.bandwidth import Bandwidth, bandwidth_of
from ollm_widgets.planning.profile.disk import DiskSpeeds
from ollm_widgets.planning.profile.remembered import profile_file
from tests.planning.profile.conftest import another_process

CPU = Device("cpu", "cpu", "Remembered CPU", 1 << 30, 1, False)
GPU = Device("cuda", "cuda:0", "Remembered GPU", 80 << 30, 1, True)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Bandwidth]:
    """Bandwidths that the next measurements of a CPU give, in order."""
    results = [Bandwidth(1e10, 1e11, launch_s=1e-6), Bandwidth(2e10, 2e11)]
    monkeypatch.setattr(host, "measure_host", lambda with_torch: results.pop(0))
    return results


def test_a_measurement_of_a_cpu_gives_every_wire_that_it_has(folder: Path) -> None:
    found = bandwidth_of(CPU)
    assert found is not None
    assert found.read_bytes_per_s > 1e6
    assert found.flops_per_s > 1e6
    assert found.host_copy_bytes_per_s is not None
    assert found.host_copy_bytes_per_s > 1e6
    assert found.launch_s is not None
    assert 1e-9 < found.launch_s < 1e-2
    assert found.host_to_device_bytes_per_s is None
    assert found.replay_s is None
    assert found.unpack_bytes_per_s is None


def test_it_is_measured_once_and_remembered_on_disk(
    folder: Path, measured: list[Bandwidth]
) -> None:
    first = bandwidth_of(CPU)
    assert bandwidth_of(CPU) == first
    another_process()
    assert bandwidth_of(CPU) == first
    assert len(measured) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(CPU, title="Another CPU"),
        replace(CPU, total_bytes=2 << 30),
    ],
)
def test_other_hardware_is_measured_anew(
    folder: Path, measured: list[Bandwidth], other: Device
) -> None:
    bandwidth_of(CPU)
    assert bandwidth_of(other) == Bandwidth(2e10, 2e11)
    assert len(profile_file().recall_all("devices")) == 2


def test_free_memory_is_no_part_of_what_a_device_is(
    folder: Path, measured: list[Bandwidth]
) -> None:
    first = bandwidth_of(CPU)
    assert bandwidth_of(replace(CPU, free_bytes=12345)) == first


def test_threads_that_ask_at_once_measure_once(folder: Path, measured: list[Bandwidth]) -> None:
    found: list[Bandwidth | None] = []
    threads = [threading.Thread(target=lambda: found.append(bandwidth_of(CPU))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(measured) == 1


def test_a_damaged_file_is_measured_over(folder: Path, measured: list[Bandwidth]) -> None:
    bandwidth_of(CPU)
    path = profile_file().path
    path.write_text(path.read_text().replace("10000000000.0", "-1"))
    another_process()
    assert bandwidth_of(CPU) == Bandwidth(2e10, 2e11)
    assert len(json.loads(path.read_text())["devices"]) == 1


def test_a_folder_that_cannot_be_written_costs_only_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[Bandwidth]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    first = bandwidth_of(CPU)
    assert bandwidth_of(CPU) == first == Bandwidth(1e10, 1e11, launch_s=1e-6)


def test_an_accelerator_without_room_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ollm_widgets.planning.profile import accelerator

    results = [None, Bandwidth(4e12, 6e14)]
    monkeypatch.setattr(accelerator, "measure_accelerator", lambda device: results.pop(0))
    assert bandwidth_of(GPU) is None
    found = bandwidth_of(GPU)
    assert found is not None
    assert found.read_bytes_per_s == 4e12


def test_unpacking_counts_as_half_of_reading_until_it_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ollm_widgets.planning.profile import accelerator

    monkeypatch.setattr(accelerator, "measure_accelerator", lambda device: Bandwidth(4e12, 6e14))
    found = bandwidth_of(GPU)
    assert found is not None
    assert found.unpack_bytes_per_s == 2e12
    bandwidth.measure_device(GPU, unpack_bytes_per_s=1.5e12)
    found = bandwidth_of(GPU)
    assert found is not None
    assert found.unpack_bytes_per_s == 1.5e12


def test_a_disk_stands_beside_a_device() -> None:
    device = Bandwidth(1e10, 1e11, page_cache_bytes_per_s=5e9)
    assert device.with_disk(None) == device
    assert device.with_disk(DiskSpeeds(1e9)) == replace(device, disk_bytes_per_s=1e9)
    both = device.with_disk(DiskSpeeds(1e9, 2e10))
    assert (both.disk_bytes_per_s, both.page_cache_bytes_per_s) == (1e9, 2e10)


def test_measuring_a_cpu_for_a_plan_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys\n"
        "from ollm_widgets.planning.devices import probe_machine\n"
        "from ollm_widgets.planning.profile.bandwidth import bandwidth_of\n"
        "assert bandwidth_of(probe_machine().cpu) is not None\n"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "False\n"
