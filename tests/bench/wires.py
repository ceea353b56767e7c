"""How fast bytes move on this machine: the floors that streaming is measured against."""

from __future__ import annotations

import mmap
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import machine
from contender import Contender
from figures import Bench, Figures, Wire
from shapes import Shape

_BLOCK_BYTES = 1 << 23
_FILE_BYTES = 4 * 10**9
_COPY_BYTES = 1 << 30
_READERS = 8


def contender_for(shape: Shape) -> Contender:
    """The contender that measures what every floor rests on, reading this shape's checkpoint."""

    def run(bench: Bench) -> Figures:
        return Figures(speeds=measure(bench.checkpoint(shape)))

    return Contender("wires", "wires", run, shape, 60)


def measure(checkpoint: Path) -> dict[Wire, float]:
    """Bytes per second of each wire; `checkpoint` is a folder of safetensors files."""
    speeds: dict[Wire, float] = {}
    path = max(checkpoint.glob("*.safetensors"), key=lambda each: each.stat().st_size)
    _read(path, 0)
    speeds["page-cache"] = max(_read(path, 0) for _ in range(2))
    if (direct := getattr(os, "O_DIRECT", 0)) and path.stat().st_size >= _BLOCK_BYTES:
        os.sync()
        speeds["disk"] = max(_read(path, direct) for _ in range(2))
    speeds["processor-memory"] = _processor_memory()
    if machine.has_gpu():
        speeds["host-to-gpu"] = _host_to_gpu()
        speeds["gpu-memory"] = _gpu_memory()
    return speeds


def _read(path: Path, flags: int) -> float:
    """Read the front of a file with several threads into aligned memory."""
    size = min(path.stat().st_size, _FILE_BYTES)
    if flags:
        size -= size % _BLOCK_BYTES
    offsets: queue.SimpleQueue[int] = queue.SimpleQueue()
    for offset in range(0, size, _BLOCK_BYTES):
        offsets.put(offset)

    def work() -> None:
        file = os.open(path, os.O_RDONLY | flags)
        block = mmap.mmap(-1, _BLOCK_BYTES)
        try:
            while True:
                os.preadv(file, [block], offsets.get_nowait())
        except queue.Empty:
            pass
        finally:
            os.close(file)

    readers = [threading.Thread(target=work) for _ in range(_READERS)]
    start = time.perf_counter()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return size / (time.perf_counter() - start)


def _processor_memory() -> float:
    """Bytes per second that a matrix-vector product reads, all cores at work."""
    import torch

    matrix = torch.ones(4096, 16384)
    vector = torch.ones(16384)
    return _best_speed(lambda: torch.mv(matrix, vector), matrix.nbytes)


def _host_to_gpu() -> float:
    import torch

    host = torch.ones(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    device = torch.empty_like(host, device="cuda")
    return _best_speed(lambda: device.copy_(host, non_blocking=True), _COPY_BYTES)


def _gpu_memory() -> float:
    """Bytes read and written per second by a copy within the GPU."""
    import torch

    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return _best_speed(lambda: target.copy_(source), 2 * _COPY_BYTES)


def _best_speed(work: Callable[[], object], size: int) -> float:
    work()
    machine.synchronize()
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(3):
            work()
        machine.synchronize()
        best = max(best, 3 * size / (time.perf_counter() - start))
    return best
