"""Memory and arithmetic of the host, measured with numpy: planning needs no torch there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ollm_widgets.planning.profile.identity import usable_cores
from ollm_widgets.planning.profile.timing import shortest_s

if TYPE_CHECKING:
    from ollm_widgets.planning.profile.bandwidth import Bandwidth

_CACHES = Path("/sys/devices/system/cpu")
_COLUMNS = 4096
# What is read must not fit in the caches; beyond the most, filling it takes too long.
_LEAST_BYTES, _MOST_BYTES = 192 << 20, 768 << 20
_SQUARE, _LARGE_SQUARE = 1024, 2048
_SOON_S = 0.01
_EACH_S = 0.06
_THREADS = 8  # that copy in the engine
_SMALL_OPERATIONS = 2000
# What a call costs as transformers writes it, module and all, beside a bare operation on a small
# array: 5.9 us on two cores where numpy's takes 0.22 us and torch's 0.84 us (torch 2.13, numpy 2).
_CALL_PER_NUMPY, _CALL_PER_TORCH = 27.0, 7.0


def measure_host(*, with_torch: bool = False) -> Bandwidth:
    """Measure reading, arithmetic, copying and small operations; about a third of a second.

    Parameters
    ----------
    with_torch
        Import torch for `launch_s`; else it follows from what numpy needs for an operation.
    """
    from ollm_widgets.planning.profile.bandwidth import Bandwidth

    matrix = _beyond_caches()
    # Before the products, whose threads go on turning for a while.
    copy = _copy_bytes_per_s(matrix)
    launch_s = _torch_launch_s() if with_torch else _numpy_launch_s()
    vector = np.ones(_COLUMNS, np.float32)
    read_s = shortest_s(lambda: matrix @ vector, _EACH_S)
    return Bandwidth(
        read_bytes_per_s=matrix.nbytes / read_s,
        flops_per_s=_flops_per_s(matrix),
        host_copy_bytes_per_s=copy,
        launch_s=launch_s,
    )


def host_copy_bytes_per_s() -> float:
    """Measure copying from host memory to host memory, as the engine's threads do it."""
    return _copy_bytes_per_s(_beyond_caches())


def _beyond_caches() -> np.ndarray:
    """A matrix of ones, float32 ``[rows, 4096]``, twice as large as the last cache."""
    size_bytes = min(max(_LEAST_BYTES, 2 * last_cache_bytes()), _MOST_BYTES)
    matrix = np.empty((size_bytes // 4 // _COLUMNS // 2 * 2, _COLUMNS), np.float32)
    threads = min(_THREADS, usable_cores())
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda rows: rows.fill(1), np.array_split(matrix, threads)))
    return matrix


def last_cache_bytes(folder: Path = _CACHES) -> int:
    """Bytes of all last-level caches, by the kernel's sysfs-devices-system-cpu; 0 if unknown."""
    sizes: dict[str, int] = {}
    for cache in folder.glob("cpu[0-9]*/cache/index3"):
        try:
            shared_by = (cache / "shared_cpu_list").read_text()
            size = (cache / "size").read_text().strip()
        except OSError:
            continue
        if size.endswith("K") and size[:-1].isdigit():
            sizes[shared_by] = int(size[:-1]) << 10
    return sum(sizes.values())


def _flops_per_s(matrix: np.ndarray) -> float:
    """Float operations a second; the larger product where many cores make short work of one."""
    found = 0.0
    for size in (_SQUARE, _LARGE_SQUARE):
        square = matrix[:size, :size].copy()

        def multiply(square: np.ndarray = square) -> None:
            square @ square

        product_s = shortest_s(multiply, _EACH_S)
        found = max(found, 2 * size**3 / product_s)
        if product_s > _SOON_S:
            break
    return found


def _copy_bytes_per_s(matrix: np.ndarray) -> float:
    target, source = np.split(matrix, 2)
    threads = min(_THREADS, usable_cores())
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            # numpy copies without the interpreter's lock.
            list(pool.map(lambda part: np.copyto(*part), parts))

        return source.nbytes / shortest_s(copy, _EACH_S / 2)


def _numpy_launch_s() -> float:
    small = np.ones(64, np.float32)

    def work() -> None:
        for _ in range(_SMALL_OPERATIONS):
            small * small

    return _CALL_PER_NUMPY * shortest_s(work, _EACH_S / 10) / _SMALL_OPERATIONS


def _torch_launch_s() -> float:
    import torch

    small = torch.ones(64)

    def work() -> None:
        for _ in range(_SMALL_OPERATIONS // 2):
            torch.add(small, small)
            torch.mul(small, small)

    with torch.inference_mode():
        return _CALL_PER_TORCH * shortest_s(work, _EACH_S / 10) / _SMALL_OPERATIONS
