"""Memory for keys and values that any later pass may write to."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch

_MAPPED_BYTES = 1 << 16


def new_buffer(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device, *, pinned: bool = False
) -> torch.Tensor:
    """Allocate without filling.

    What is made in inference mode cannot be written outside of it, and a cache outlives a pass.
    """
    size = math.prod(shape) * dtype.itemsize
    with torch.inference_mode(False):
        if device.type == "cpu" and not pinned and size >= _MAPPED_BYTES:
            # Given back to the system at once: the C library would keep what it gets back, and
            # buffers of ever other sizes would leave it with holes as large as the budget.
            memory = mmap.mmap(-1, size)
            return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(tuple(shape))
        return torch.empty(tuple(shape), dtype=dtype, device=device, pin_memory=pinned)


def host_bytes_buffer(shape: Sequence[int], computing: torch.device) -> torch.Tensor:
    """Allocate ``uint8`` in host memory, page-locked where it will cross to a CUDA device."""
    pinned = computing.type == "cuda"
    return new_buffer(shape, torch.uint8, torch.device("cpu"), pinned=pinned)


def copy_bytes(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy between host and device; where the target is page-locked it is not waited for."""
    target.copy_(source, non_blocking=target.is_cuda or target.is_pinned())


def move_forward(states: torch.Tensor, by: int, length: int) -> None:
    """Move tokens ``[by, by + length)`` of ``[batch, heads, tokens, width]`` to the front."""
    for start in range(0, length, by):
        # A copy must not overlap itself: at most `by` tokens at a time.
        size = min(by, length - start)
        states[:, :, start : start + size].copy_(states[:, :, start + by : start + by + size])


def as_pages(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """See ``[batch, heads, pages * tokens, width]`` as ``[pages, batch, heads, tokens, width]``."""
    batch, heads, length, width = states.shape
    return states.view(batch, heads, length // tokens, tokens, width).permute(2, 0, 1, 3, 4)


def new_stream(device: torch.device) -> torch.cuda.Stream:
    """Make a stream beside the one that computes."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def new_event(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """Note the moment at which everything enqueued on `stream` so far is over."""
    event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(stream)
    return event
