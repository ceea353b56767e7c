"""What this machine's memory and arithmetic give: measured once and remembered."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ollm_widgets.planning.devices import Device
from ollm_widgets.settings import cache_dir

_VERSION = 1
_MATRIX_ROWS, _MATRIX_COLUMNS = 4096, 6144  # 96 MiB of float32, more than common caches
_SQUARE = 1024
_GPU_SQUARE = 4096


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What one device and its wires give; what is None was not measured, or does not exist.

    Parameters
    ----------
    read_bytes_per_s
        Weights that a matrix times vector product reads from memory, all cores at work.
    flops_per_s
        Float operations of a large matrix product (float32 on a CPU, bfloat16 or float16 on
        an accelerator).
    host_to_device_bytes_per_s, disk_bytes_per_s
        From pinned host memory to the accelerator, and from disk past the page cache.
    page_cache_bytes_per_s
        From the page cache into memory, by as many threads as the engine reads with.
    host_copy_bytes_per_s
        From host memory to host memory.
    unpack_bytes_per_s
        Raw bytes that the accelerator makes of packed layers.
    launch_s
        What Python spends on having the device do one small operation.
    replay_s
        What a small operation takes in a captured graph.
    """

    read_bytes_per_s: float
    flops_per_s: float
    host_to_device_bytes_per_s: float | None = None
    disk_bytes_per_s: float | None = None
    page_cache_bytes_per_s: float | None = None
    host_copy_bytes_per_s: float | None = None
    unpack_bytes_per_s: float | None = None
    launch_s: float | None = None
    replay_s: float | None = None


def bandwidth_of(device: Device) -> Bandwidth | None:
    """Return the bandwidth of `device`, measuring it (under a third of a second) if need be.

    None when an accelerator has no room to measure in.
    """
    return _remembered(device.kind, device.name, device.title, cache_dir())


@cache
def _remembered(kind: str, name: str, title: str, folder: Path) -> Bandwidth | None:
    key = f"{title}, {os.cpu_count()} cores" if kind == "cpu" else title
    path = folder / "bandwidth.json"
    stored = _read(path)
    found = _as_bandwidth(stored.get(key))
    if found is None:
        found = _measure_cpu() if kind == "cpu" else _measure_accelerator(name)
        if found is not None:
            _write(path, {**stored, key: asdict(found)})
    return found


def _read(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        return {}
    devices = document.get("devices")
    return devices if isinstance(devices, dict) else {}


def _as_bandwidth(stored: object) -> Bandwidth | None:
    if not isinstance(stored, dict):
        return None
    numbers = [stored.get("read_bytes_per_s"), stored.get("flops_per_s")]
    read, flops = (
        float(number)
        if isinstance(number, int | float) and math.isfinite(number) and number > 0
        else None
        for number in numbers
    )
    return None if read is None or flops is None else Bandwidth(read, flops)


def _write(path: Path, devices: dict[str, object]) -> None:
    """Replace the file in one step; a folder that cannot be written costs a new measurement."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(
            json.dumps({"version": _VERSION, "devices": devices}, indent=1), encoding="utf-8"
        )
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()


def _measure_cpu() -> Bandwidth:
    import numpy as np

    matrix = np.ones((_MATRIX_ROWS, _MATRIX_COLUMNS), np.float32)
    vector = np.ones(_MATRIX_COLUMNS, np.float32)
    read_s = _best_of(4, lambda: matrix @ vector)
    square = matrix[:_SQUARE, :_SQUARE].copy()
    product_s = _best_of(3, lambda: square @ square)
    return Bandwidth(matrix.nbytes / read_s, 2 * _SQUARE**3 / product_s)


def _measure_accelerator(name: str) -> Bandwidth | None:
    import torch

    try:
        return _measure_with_torch(name)
    except torch.OutOfMemoryError:
        return None


def _measure_with_torch(name: str) -> Bandwidth:
    import torch

    synchronize = torch.mps.synchronize if name == "mps" else torch.cuda.synchronize
    square = torch.ones((_GPU_SQUARE, _GPU_SQUARE), dtype=torch.float16, device=name)
    wide = torch.ones((_GPU_SQUARE, 8 * _GPU_SQUARE), dtype=torch.float16, device=name)
    vector = torch.ones(8 * _GPU_SQUARE, dtype=torch.float16, device=name)

    def run(work: Callable[[], object]) -> float:
        def finished() -> None:
            work()
            synchronize()

        finished()  # the first run loads kernels
        return _best_of(4, finished)

    read_s = run(lambda: wide @ vector)
    product_s = run(lambda: square @ square)
    return Bandwidth(wide.nbytes / read_s, 2 * _GPU_SQUARE**3 / product_s)


def _best_of(times: int, work: Callable[[], object]) -> float:
    """Return the shortest of several runs in seconds: what the machine can do undisturbed."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return max(min(seconds), 1e-9)
