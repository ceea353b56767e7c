"""The few calls to CUDA that torch leaves without types."""

from __future__ import annotations

import torch


def new_event(*, timing: bool = False) -> torch.cuda.Event:
    """Make an event; with `timing` it can tell the time to another."""
    return torch.cuda.Event(enable_timing=timing)  # type: ignore[no-untyped-call]


def new_stream(device: torch.device) -> torch.cuda.Stream:
    """Make a stream beside the one that computes."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def has_happened(event: torch.cuda.Event) -> bool:
    """Whether all work before the event is done."""
    return bool(event.query())  # type: ignore[no-untyped-call]


def lock_pages(address: int, size_bytes: int) -> bool:
    """Page-lock host memory for copies at the wire's speed; False where the system refuses."""
    return int(torch.cuda.cudart().cudaHostRegister(address, size_bytes, 0)) == 0  # type: ignore[no-untyped-call]


def unlock_pages(address: int) -> None:
    """Undo `lock_pages`."""
    torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]
