"""What this machine is, what a process has taken of it, and its page cache."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def describe() -> str:
    """One line: the chip, the cores, the memory, the versions."""
    import torch

    gpu = f"{torch.cuda.get_device_name()}, " if has_gpu() else ""
    processor = _field("/proc/cpuinfo", "model name") or platform.machine()
    memory_gb = int(_field("/proc/meminfo", "MemTotal").split()[0]) * 1024 / 1e9
    libraries = ", ".join(f"{name} {_version(name)}" for name in ("transformers", "accelerate"))
    return (
        f"{gpu}{processor}, {os.cpu_count()} cores, {memory_gb:.0f} GB; Python "
        f"{platform.python_version()}, torch {torch.__version__}, {libraries}"
    )


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    import torch

    if has_gpu():
        torch.cuda.synchronize()


def reset_gpu_peak() -> None:
    """Count the GPU's peak from now on."""
    import torch

    if has_gpu():
        torch.cuda.reset_peak_memory_stats()


def release_gpu() -> None:
    """Have torch give back what it keeps of the GPU."""
    import torch

    if has_gpu():
        torch.cuda.empty_cache()


def gpu_peak_bytes() -> int | None:
    """Most bytes of tensors that this process had on the GPU at once."""
    import torch

    return torch.cuda.max_memory_allocated() if has_gpu() else None


def reset_host_peak() -> int:
    """Count the peak of resident memory from now on; gives the bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def host_peak_bytes() -> int:
    """Most bytes that this process had resident, mapped files included."""
    return _status_bytes("VmHWM")


def drop_page_cache(folder: Path) -> None:
    """Forget the files below `folder`, and no others: the machine may be shared."""
    os.sync()  # what is not on disk yet cannot be dropped
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill_page_cache(folder: Path) -> None:
    """Read the files below `folder` once."""
    block = bytearray(1 << 24)
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass


def _status_bytes(name: str) -> int:
    return int(_field("/proc/self/status", name).split()[0]) * 1024


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
