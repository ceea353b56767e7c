"""The machine's memory and accelerators as they are now."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ollm_widgets.planning.ids import DeviceKind, DType, DTypeChoice

_ACCELERATOR_NODES = ("/dev/nvidia0", "/proc/driver/nvidia/gpus", "/dev/kfd", "/dev/dxg")
_CGROUP_V2 = Path("/sys/fs/cgroup")
_CGROUP_V1 = Path("/sys/fs/cgroup/memory")
_SIXTEEN_BIT: dict[str, DType] = {"bfloat16": "bfloat16", "float16": "float16"}


@dataclass(frozen=True, slots=True)
class Device:
    """A place that can compute.

    Parameters
    ----------
    kind, name, title
        ``cuda``, ``cuda:0``, and what a person calls it.
    total_bytes, free_bytes
        Its memory, and what nobody uses of it.
    native_bf16
        Whether its arithmetic knows bfloat16; without it float32 is faster.
    """

    kind: DeviceKind
    name: str
    title: str
    total_bytes: int
    free_bytes: int
    native_bf16: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """The devices of this machine and its host memory."""

    cpu: Device
    accelerators: tuple[Device, ...]
    ram_total_bytes: int
    ram_free_bytes: int

    def find(self, asked: str) -> Device | None:
        """Return the device of that name; ``cuda`` is the first one."""
        if asked == "cpu":
            return self.cpu
        matches = (
            device
            for device in self.accelerators
            if device.name == asked or (device.kind == asked and ":" not in asked)
        )
        return next(matches, None)


def probe_machine() -> Machine:
    """Look at memory and accelerators; torch is imported only where an accelerator can exist."""
    total_bytes, free_bytes = host_memory()
    cpu = Device("cpu", "cpu", _cpu_title(), total_bytes, free_bytes, _cpu_has_bf16())
    accelerators = _accelerators(total_bytes, free_bytes) if _may_have_accelerator() else ()
    return Machine(cpu, accelerators, total_bytes, free_bytes)


def host_memory() -> tuple[int, int]:
    """Return total and free bytes of host memory, within the container's limit."""
    import psutil

    ram = psutil.virtual_memory()
    limit_bytes, used_bytes = _cgroup_memory()
    total_bytes = min(int(ram.total), limit_bytes)
    return total_bytes, min(int(ram.available), max(limit_bytes - used_bytes, 0), total_bytes)


def choose_dtype(checkpoint_dtype: str | None, device: Device, asked: DTypeChoice) -> DType:
    """Choose the dtype to compute in.

    Parameters
    ----------
    checkpoint_dtype
        Stored dtype of the weights; quantized or unknown counts as bfloat16.
    asked
        What the config says; ``auto`` is the checkpoint's on an accelerator, and float32 on a
        CPU without bfloat16 arithmetic, where 16-bit prefill is several times slower.
    """
    if asked != "auto":
        return asked
    stored = (checkpoint_dtype or "bfloat16").lower()
    if stored in ("float32", "float64"):
        return "float32"
    half = _SIXTEEN_BIT.get(stored, "bfloat16")
    if device.kind == "cpu":
        return "bfloat16" if device.native_bf16 and half == "bfloat16" else "float32"
    return "float16" if half == "bfloat16" and not device.native_bf16 else half


def _may_have_accelerator() -> bool:
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform == "win32" or "torch" in sys.modules:
        return True
    return any(Path(node).exists() for node in _ACCELERATOR_NODES)


def _accelerators(ram_total_bytes: int, ram_free_bytes: int) -> tuple[Device, ...]:
    try:
        import torch
    except ImportError:
        return ()
    if torch.cuda.is_available():
        return tuple(_cuda_device(index) for index in range(torch.cuda.device_count()))
    if torch.backends.mps.is_available():
        # Unified memory: what Metal lets one process use, of the same bytes as the RAM.
        total_bytes = min(int(torch.mps.recommended_max_memory()), ram_total_bytes)
        free_bytes = max(
            min(total_bytes - int(torch.mps.driver_allocated_memory()), ram_free_bytes), 0
        )
        return (Device("mps", "mps", "Apple GPU", total_bytes, free_bytes, True),)
    return ()


def _cuda_device(index: int) -> Device:
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    properties = torch.cuda.get_device_properties(index)
    return Device(
        "cuda",
        f"cuda:{index}",
        str(properties.name),
        int(total_bytes),
        int(free_bytes),
        int(properties.major) >= 8 or torch.version.hip is not None,
    )


def _cgroup_memory() -> tuple[int, int]:
    """Return the container's limit and use in bytes; without a limit, the largest integer."""
    for folder, limit_name, use_name, cache_key in (
        (_CGROUP_V2, "memory.max", "memory.current", "inactive_file"),
        (_CGROUP_V1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit_bytes = int((folder / limit_name).read_text())
            used_bytes = int((folder / use_name).read_text())
            stat = (folder / "memory.stat").read_text()
        except (OSError, ValueError):  # no such file, or "max"
            continue
        # Cached file pages count as used but are given back on demand.
        for line in stat.splitlines():
            key, _, value = line.partition(" ")
            if key == cache_key and value.isdigit():
                used_bytes -= int(value)
        return limit_bytes, max(used_bytes, 0)
    return sys.maxsize, 0


@cache
def _cpu_info() -> tuple[str, frozenset[str]]:
    """Return the CPU's model name and flags, from ``/proc/cpuinfo`` where there is one."""
    name, flags = "", frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        key = key.strip()
        if key == "model name" and not name:
            name = value.strip()
        elif key in ("flags", "Features") and not flags:
            flags = frozenset(value.split())
    return name or platform.processor() or platform.machine() or "CPU", flags


def _cpu_title() -> str:
    return _cpu_info()[0]


def _cpu_has_bf16() -> bool:
    # avx512_bf16 and amx_bf16 on x86, bf16 on Arm.
    return bool(_cpu_info()[1] & {"avx512_bf16", "amx_bf16", "bf16"})
