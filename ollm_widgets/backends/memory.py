"""Recognising that memory ran out, on any device, and saying so with numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ollm_widgets.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

    from ollm_widgets.planning.plan import RuntimePlan


@contextmanager
def as_out_of_memory(plan: RuntimePlan, device: torch.device) -> Iterator[None]:
    """Turn torch's allocation failures into `OutOfMemory`; other errors pass unchanged."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_allocation_failure(error):
            raise
        free_bytes = free_on(device)
        needed_bytes = plan.memory.needed_bytes
        raise OutOfMemory(
            f"{device} ran out of memory: the plan needs {needed_bytes / 2**30:.1f} GiB, "
            f"{free_bytes / 2**30:.1f} GiB are free.",
            tier=str(device),
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
            hint="Unload another model, plan for fewer context tokens, or pick a smaller model.",
        ) from error


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator raises a bare RuntimeError; its text is the only mark it has.
    return "DefaultCPUAllocator" in str(error) or "can't allocate memory" in str(error)


def free_on(device: torch.device) -> int:
    """What nobody uses of a device's memory; of the CPU's, host memory."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
