from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ollm_widgets.errors import Cancelled
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.planning.profile import file_reading, host
from ollm_widgets.planning.profile.bandwidth import Bandwidth, bandwidth_of
from ollm_widgets.planning.profile.disk import known_disk_speeds
from ollm_widgets.planning.profile.machine import (
    MachineProfile,
    profile_machine,
    remembered_profile,
)
from ollm_widgets.planning.profile.remembered import profile_file
from tests.planning.profile.conftest import another_process

CPU = Device("cpu", "cpu", "A CPU", 1 << 30, 1, False)
GPU = Device("cuda", "cuda:0", "A <GPU>", 80 << 30, 1, True)
MACHINE = Machine(CPU, (), 1 << 30, 1)
WITH_GPU = Machine(CPU, (GPU,), 1 << 30, 1)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements that are the same each time."""
    from ollm_widgets.planning.profile import accelerator

    monkeypatch.setattr(
        host, "measure_host", lambda with_torch: Bandwidth(2.5e10, 1.5e11, launch_s=8e-7)
    )
    monkeypatch.setattr(
        accelerator,
        "measure_accelerator",
        lambda device: Bandwidth(4.2e12, 6.5e14, 5.5e10, launch_s=4e-6, replay_s=1.2e-6),
    )
    monkeypatch.setattr(file_reading, "read_speeds", lambda path: (1.5e9, 2e10))


def test_the_full_measurement_is_what_plans_rest_on_afterwards(folder: Path) -> None:
    found = profile_machine(machine=MACHINE)
    assert found.bandwidth("cpu") == bandwidth_of(CPU)
    (disk,) = found.disks
    assert disk.speeds == known_disk_speeds(folder)
    assert disk.speeds.page_cache_bytes_per_s is not None
    another_process()
    assert remembered_profile(MACHINE) == found


@pytest.mark.usefixtures("figures")
def test_it_leaves_no_file_behind_but_its_own(folder: Path) -> None:
    profile_machine(machine=MACHINE)
    names = {path.name for path in folder.iterdir()}
    assert names <= {"machine-profile.json", "machine-profile.json.lock"}


@pytest.mark.usefixtures("figures")
def test_it_replaces_what_was_remembered(folder: Path) -> None:
    from ollm_widgets.planning.profile.identity import device_key

    profile_file().remember(
        "devices", device_key(CPU), {"read_bytes_per_s": 1.0, "flops_per_s": 1.0}
    )
    assert bandwidth_of(CPU) == Bandwidth(1.0, 1.0)
    profile_machine(machine=MACHINE)
    assert bandwidth_of(CPU) == Bandwidth(2.5e10, 1.5e11, launch_s=8e-7)


@pytest.mark.usefixtures("figures")
def test_stages_are_named_and_the_format_is_measured_from_above(folder: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    found = profile_machine(
        progress=lambda *stage: stages.append(stage),
        unpack=lambda device: 2.1e12 if device.kind == "cuda" else None,
        machine=WITH_GPU,
    )
    assert stages == [
        ("Measure A CPU", 0, 3),
        ("Measure A <GPU>", 1, 3),
        ("Measure the disk", 2, 3),
        ("Measured", 3, 3),
    ]
    gpu = found.bandwidth("cuda:0")
    assert gpu is not None
    assert gpu.unpack_bytes_per_s == 2.1e12
    assert found.bandwidth("cuda:1") is None


@pytest.mark.usefixtures("figures")
def test_a_cancel_keeps_the_stages_that_were_done(folder: Path) -> None:
    cancel = threading.Event()

    def stop(_stage: str, done: int, _total: int) -> None:
        if done == 1:
            cancel.set()

    with pytest.raises(Cancelled):
        profile_machine(progress=stop, cancel=cancel, machine=WITH_GPU)
    found = remembered_profile(WITH_GPU)
    assert found.bandwidth("cpu") is not None
    assert found.disks == ()


@pytest.mark.usefixtures("figures")
def test_the_models_own_files_are_read_where_there_are_some(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def speeds(path: Path) -> tuple[float, float]:
        assert path.stat().st_size >= 32 << 20
        read.append(path)
        return 1e9, 1e10

    monkeypatch.setattr(file_reading, "read_speeds", speeds)
    model = tmp_path_factory.mktemp("model")
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(40 << 20)
    profile_machine(model, machine=MACHINE)
    profile_machine(folder, machine=MACHINE)
    assert read[0] == model / "model.safetensors"
    assert read[1].is_relative_to(folder)


@pytest.mark.usefixtures("figures")
def test_a_cache_folder_that_cannot_be_written_leaves_the_disk_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path / "file" / "cache"))
    found = profile_machine(machine=MACHINE)
    assert found.bandwidth("cpu") is not None
    assert found.disks == ()


@pytest.mark.usefixtures("figures")
def test_every_wire_has_a_row_with_its_speed_and_when(folder: Path) -> None:
    found = profile_machine(machine=WITH_GPU)
    cells = {row.cells[0]: row.cells[1] for row in found.table().rows}
    assert cells["A <GPU>: reads its memory"] == "4.2 TB/s"
    assert cells["A <GPU>: multiplies matrices"] == "650 TFLOP/s"
    assert cells["A <GPU>: receives from host memory"] == "55.0 GB/s"
    assert cells["A <GPU>: one small operation of a captured step"] == "1.2 µs"
    assert cells["A CPU: multiplies matrices"] == "150 GFLOP/s"
    assert any(name.endswith("reads past the page cache") for name in cells)
    assert all(row.cells[2].startswith("20") for row in found.table().rows)
    assert "<GPU>" not in found.to_html()
    assert "4.2 TB/s" in found.to_markdown()
    assert "4.2 TB/s" in str(found)


def test_where_nothing_was_measured_it_says_how(folder: Path) -> None:
    assert remembered_profile(MACHINE) == MachineProfile()
    assert "%ollm doctor --measure" in str(remembered_profile(MACHINE))
    assert not list(folder.iterdir())
