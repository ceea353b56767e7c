from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ollm_widgets.planning.devices import Device
from ollm_widgets.planning.profile import identity
from ollm_widgets.planning.profile.identity import (
    device_key,
    disk_key,
    nvidia_driver,
    usable_cores,
)

GPU = Device("cuda", "cuda:0", "A GPU", 80 << 30, 1, True)
MOUNTS = (
    "27 1 {device} / / rw,relatime - ext4 /dev/vda rw,discard\n"
    "30 25 9:9 / /dev/shm rw - tmpfs tmpfs rw\n"
    "short line\n"
)


def test_a_gpu_is_its_title_memory_driver_and_what_drives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "nvidia_driver", lambda: "550.54.15")
    key = device_key(GPU)
    assert key.startswith("cuda, A GPU, 80.0 GiB, ")
    assert f"{usable_cores()} cores" in key
    assert key.endswith("driver 550.54.15")
    for other in (
        replace(GPU, title="Another"),
        replace(GPU, total_bytes=40 << 30),
    ):
        assert device_key(other) != key
    assert device_key(replace(GPU, name="cuda:1", free_bytes=7)) == key
    monkeypatch.setattr(identity, "nvidia_driver", lambda: "580.1")
    assert device_key(GPU) != key


def test_a_cpu_that_computes_with_fewer_threads_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = replace(GPU, kind="cpu", name="cpu", title="A CPU")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    key, gpu = device_key(cpu), device_key(GPU)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert device_key(cpu) == f"{key}, 1 threads"
    assert device_key(GPU) == gpu


def test_a_disk_is_its_mount_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(device=f"{os.major(number)}:{os.minor(number)}"))
    monkeypatch.setattr(identity, "_MOUNTS", mounts)
    key = disk_key(tmp_path)
    assert key is not None
    assert key.startswith("/dev/vda ext4 (device ")
    monkeypatch.setattr(identity, "_MOUNTS", tmp_path / "none")
    unnamed = disk_key(tmp_path)
    assert unnamed is not None
    assert unnamed.startswith("disk (device ")
    assert disk_key(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC\n"
            "GCC version:  gcc version 11.4.0",
            "550.54.15",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95  Release Build",
            "580.95",
        ),
        ("nothing", ""),
    ],
)
def test_the_driver_is_read_from_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str
) -> None:
    path = tmp_path / "version"
    path.write_text(text)
    monkeypatch.setattr(identity, "_DRIVER", path)
    assert nvidia_driver.__wrapped__() == version
    monkeypatch.setattr(identity, "_DRIVER", tmp_path / "none")
    assert nvidia_driver.__wrapped__() == ""
