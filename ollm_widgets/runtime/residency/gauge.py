"""How full this machine's memories are, as far as that can be asked without taking any."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType

from ollm_widgets.runtime.residency.surroundings import RAM, MemoryLevel


class SystemGauge:
    """Reads host memory, and the accelerators that this process already uses.

    An accelerator is left out until then: to ask for its level would create a context on it,
    which takes hundreds of megabytes for as long as the kernel lives.
    """

    def levels(self) -> Mapping[str, MemoryLevel]:
        """Return each memory by its place; never raises for a device that does not answer."""
        ram = _ram()
        found = {RAM: ram}
        torch = _torch()
        if torch is not None:
            for level in (*_cuda_levels(torch), *_mps_levels(torch, ram)):
                found[level.place] = level
        return found


def device_uuids() -> Mapping[str, str]:
    """Return the uuid of each GPU by its place, once this process uses GPUs.

    Two kernels with different ``CUDA_VISIBLE_DEVICES`` call different GPUs ``cuda:0``.
    """
    torch = _torch()
    found = {}
    if torch is not None and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            with contextlib.suppress(RuntimeError):  # a broken GPU goes by its number
                uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
                if uuid is not None:
                    found[f"cuda:{index}"] = f"GPU-{uuid}"
    return found


def _ram() -> MemoryLevel:
    from ollm_widgets.planning.devices import host_memory

    return MemoryLevel(RAM, *host_memory())


def _torch() -> ModuleType | None:
    """Return torch if it has been imported, all of it: another thread may be in the middle."""
    torch = sys.modules.get("torch")
    whole = all(hasattr(torch, part) for part in ("cuda", "backends", "mps"))
    return torch if whole else None


def _cuda_levels(torch: ModuleType) -> Iterator[MemoryLevel]:
    if not torch.cuda.is_initialized():
        return
    for index in range(torch.cuda.device_count()):
        if not _has_context(torch, index):
            continue
        try:
            free_bytes, total_bytes = torch.cuda.mem_get_info(index)
            kept_bytes = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
        except RuntimeError:  # after a failed kernel a device answers nothing but its error
            continue
        # The two figures are of two moments, between which another thread may allocate.
        free_bytes = min(free_bytes + max(kept_bytes, 0), total_bytes)
        yield MemoryLevel(f"cuda:{index}", int(total_bytes), int(free_bytes))


def _has_context(torch: ModuleType, index: int) -> bool:
    """Whether asking the device costs nothing; CUDA may be in use on another one only."""
    known = getattr(torch._C, "_cuda_hasPrimaryContext", None)
    return bool(known(index)) if known else torch.cuda.memory_reserved(index) > 0


def _mps_levels(torch: ModuleType, ram: MemoryLevel) -> Iterator[MemoryLevel]:
    if not torch.backends.mps.is_available():
        return
    # Unified memory: what Metal lets one process use, of the same bytes as the RAM.
    total_bytes = min(int(torch.mps.recommended_max_memory()), ram.total_bytes)
    used_bytes = int(torch.mps.current_allocated_memory())
    kept_bytes = max(int(torch.mps.driver_allocated_memory()) - used_bytes, 0)
    free_bytes = min(total_bytes - used_bytes, ram.free_bytes + kept_bytes)
    yield MemoryLevel("mps", total_bytes, max(free_bytes, 0))
