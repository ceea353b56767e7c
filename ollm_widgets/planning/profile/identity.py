"""What a measurement belongs to: another processor, memory, driver or torch is measured anew."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ollm_widgets.planning.devices import Device

_DRIVER = Path("/proc/driver/nvidia/version")
_MOUNTS = Path("/proc/self/mountinfo")
_VERSION = re.compile(r"\b\d{3,4}\.\d+(?:\.\d+)?\b")


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_key() -> str:
    """Say which host this is, as far as what it computes depends on it."""
    return f"{usable_cores()} cores, torch {_torch_series()}"


def device_key(device: Device) -> str:
    """Say which device this is: title, memory, cores, the series of torch, threads or driver."""
    memory = f"{device.total_bytes / 1024**3:.1f} GiB"
    parts = [device.kind, device.title, memory, host_key()]
    if device.kind == "cpu" and os.environ.get("OMP_NUM_THREADS"):
        parts.append(f"{os.environ['OMP_NUM_THREADS']} threads")
    if device.kind == "cuda" and nvidia_driver():
        parts.append(f"driver {nvidia_driver()}")
    return ", ".join(parts)


def disk_key(path: Path) -> str | None:
    """Say which disk holds an existing path: its mount and device; None if it cannot be looked at.

    Device numbers can come to mean another disk after a restart, and a mount's source alone
    (``overlay``, ``tmpfs``) means many.
    """
    try:
        number = path.stat().st_dev
    except OSError:
        return None
    device = f"{os.major(number)}:{os.minor(number)}" if hasattr(os, "major") else str(number)
    return f"{_mount_source(device)} (device {device}), {host_key()}"


@cache
def nvidia_driver() -> str:
    """Version of the NVIDIA driver of a Linux machine, e.g. ``"550.54.15"``; empty without one."""
    try:
        found = _VERSION.search(_DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[0] if found else ""


def _mount_source(device: str) -> str:
    """What is mounted there, ``/dev/nvme0n1p2 ext4``, by proc(5); else ``disk``."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "disk"
    for line in lines:
        mount, _, about = line.partition(" - ")
        fields, source = mount.split(), about.split()
        if len(fields) > 2 and fields[2] == device and len(source) > 1:
            return f"{source[1]} {source[0]}"
    return "disk"


@cache
def _torch_series() -> str:
    try:
        return ".".join(version("torch").split(".")[:2])
    except PackageNotFoundError:
        return "none"
