"""Memory, arithmetic and the wire of an accelerator, measured with torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ollm_widgets.planning.profile.host import host_copy_bytes_per_s
from ollm_widgets.planning.profile.timing import shortest_s

if TYPE_CHECKING:
    import torch

    from ollm_widgets.planning.devices import Device
    from ollm_widgets.planning.profile.bandwidth import Bandwidth

# 256 MiB in 16 bits: more than the caches of any accelerator.
_ROWS, _COLUMNS = 8192, 16_384
# Several in a row, so that starting the first and waiting for the last count for little.
_READS = 8
# A product is worth repeating in the next size while it takes less than this.
_SQUARES = (2048, 4096, 8192)
_SOON_S = 0.01
_EACH_S = 0.04
_WIRE_BYTES = 256 << 20
_LAUNCHES = 400  # fewer than a queue of CUDA holds, so that Python never waits
_REPLAYED = 512


def measure_accelerator(device: Device) -> Bandwidth | None:
    """Measure an accelerator: under a second, beside waking it.

    None if it has no room, or torch cannot compute on it: a plan is made all the same.
    """
    import torch

    try:
        with torch.inference_mode():
            return _measure(device)
    except RuntimeError:
        return None
    finally:
        if device.kind == "cuda":
            with suppress(RuntimeError):
                _give_back()


def _measure(device: Device) -> Bandwidth:
    import torch

    from ollm_widgets.planning.profile.bandwidth import Bandwidth

    target = torch.device(device.name)
    on_cuda = device.kind == "cuda"
    # Not every release of macOS multiplies bfloat16.
    dtype = torch.bfloat16 if on_cuda and device.native_bf16 else torch.float16
    wait = _waiting_for(target)
    return Bandwidth(
        read_bytes_per_s=_read_bytes_per_s(target, dtype, wait),
        flops_per_s=_flops_per_s(target, dtype, wait),
        host_to_device_bytes_per_s=_wire_bytes_per_s(target, wait) if on_cuda else None,
        host_copy_bytes_per_s=host_copy_bytes_per_s(),
        launch_s=_launch_s(target, wait),
        replay_s=_replay_s(target, wait) if on_cuda else None,
    )


def _give_back() -> None:
    """Return what torch keeps of the device and of page-locked memory: plans count what is free."""
    import torch

    torch.cuda.empty_cache()
    # Not public, and not there in every release.
    getattr(torch._C, "_host_emptyCache", lambda: None)()


def _waiting_for(target: torch.device) -> Callable[[], None]:
    import torch

    if target.type == "mps":
        return torch.mps.synchronize
    # Of a stream, not of the device: a model that generates meanwhile is none of our business.
    return lambda: torch.cuda.current_stream(target).synchronize()


def _read_bytes_per_s(target: torch.device, dtype: torch.dtype, wait: Callable[[], None]) -> float:
    import torch

    matrix = torch.ones((_ROWS, _COLUMNS), dtype=dtype, device=target)
    vector = torch.ones(_COLUMNS, dtype=dtype, device=target)
    out = torch.empty(_ROWS, dtype=dtype, device=target)

    def read() -> None:
        for _ in range(_READS):
            torch.mv(matrix, vector, out=out)
        wait()

    read()  # the first run loads kernels
    return _READS * matrix.nbytes / shortest_s(read, _EACH_S)


def _flops_per_s(target: torch.device, dtype: torch.dtype, wait: Callable[[], None]) -> float:
    """Float operations a second of the largest square that a fraction of a second allows.

    Its numbers are random: products of ones draw less power, and run faster than a model's.
    """
    import torch

    found = 0.0
    for size in _SQUARES:
        try:
            square = torch.randn((size, size), device=target, dtype=dtype)
            out = torch.empty_like(square)
        except torch.OutOfMemoryError:
            if found:
                break
            raise

        def multiply(square: torch.Tensor = square, out: torch.Tensor = out) -> None:
            torch.mm(square, square, out=out)
            wait()

        multiply()
        product_s = shortest_s(multiply, _EACH_S)
        found = max(found, 2 * size**3 / product_s)
        if product_s > _SOON_S:
            break
    return found


def _wire_bytes_per_s(target: torch.device, wait: Callable[[], None]) -> float | None:
    """From page-locked memory to the device; None where the system locks none."""
    import torch

    try:
        pinned = torch.empty(_WIRE_BYTES, dtype=torch.uint8, pin_memory=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return None
    there = torch.empty(_WIRE_BYTES, dtype=torch.uint8, device=target)

    def copy() -> None:
        there.copy_(pinned, non_blocking=True)
        wait()

    copy()
    return _WIRE_BYTES / shortest_s(copy, _EACH_S)


def _launch_s(target: torch.device, wait: Callable[[], None]) -> float:
    """What an operation takes until Python may go on; the device works behind."""
    import torch

    small = torch.ones(64, device=target)
    seconds = []
    for _ in range(5):
        wait()
        start = time.perf_counter()
        for _ in range(_LAUNCHES // 2):
            torch.add(small, small)
            torch.mul(small, small)
        seconds.append(time.perf_counter() - start)
    wait()
    return max(min(seconds), 1e-9) / _LAUNCHES


def _replay_s(target: torch.device, wait: Callable[[], None]) -> float | None:
    """What one of many kernels takes that wait for each other; None where graphs do not work."""
    import torch

    try:
        with torch.cuda.device(target):
            return _replayed_s(target, wait)
    except RuntimeError:
        return None


def _replayed_s(target: torch.device, wait: Callable[[], None]) -> float:
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch does not annotate it
    graph = torch.cuda.CUDAGraph()
    small = torch.zeros(64, device=target)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        small.add_(1)
        stream.synchronize()
        # Of this thread only: a model may generate on another meanwhile.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            for _ in range(_REPLAYED):
                small.add_(1)
        finally:
            graph.capture_end()

    def replay() -> None:
        graph.replay()
        wait()

    replay()
    found = shortest_s(replay, _EACH_S / 4) / _REPLAYED
    graph.reset()
    return found
