"""Measured memory of a runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ollm_widgets.kv.measuring import cache_stats
from ollm_widgets.kv.stats import KVStats

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

    from ollm_widgets.weights.engine import WeightEngine


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Measured bytes of one runtime, by tier and kind.

    Parameters
    ----------
    accelerator_weights_bytes, host_weights_bytes, disk_weights_bytes
        Weights that live there; those on disk are read each pass.
    accelerator_staging_bytes, host_staging_bytes
        Buffers that streamed layers pass through.
    accelerator_kv_bytes, host_kv_bytes, disk_kv_bytes
        Keys and values.
    host_copy_bytes
        Page-locked copies of what is on accelerators, which a demotion has left; they can go.
    """

    accelerator_weights_bytes: int = 0
    host_weights_bytes: int = 0
    disk_weights_bytes: int = 0
    accelerator_staging_bytes: int = 0
    host_staging_bytes: int = 0
    accelerator_kv_bytes: int = 0
    host_kv_bytes: int = 0
    disk_kv_bytes: int = 0
    host_copy_bytes: int = 0

    @property
    def accelerator_bytes(self) -> int:
        """Everything on the accelerator."""
        return (
            self.accelerator_weights_bytes
            + self.accelerator_staging_bytes
            + self.accelerator_kv_bytes
        )

    @property
    def host_bytes(self) -> int:
        """Everything in host memory."""
        return (
            self.host_weights_bytes
            + self.host_staging_bytes
            + self.host_kv_bytes
            + self.host_copy_bytes
        )


class PeakMemory:
    """The most that torch allocates on some GPUs from now on.

    What a process allocates there for other things meanwhile counts too.

    Parameters
    ----------
    devices
        Torch names; those that are no CUDA devices are left out.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._before = {
            name: self._figures(name) for name in devices if name.partition(":")[0] == "cuda"
        }

    def measured_bytes(self) -> int | None:
        """Return it, of all GPUs together; None without one, or where more was in use before.

        torch keeps one peak a process. Resetting it would take it from whoever else reads it.
        """
        total_bytes = 0
        for name, (allocated_bytes, peak_bytes) in self._before.items():
            now_bytes = self._figures(name)[1]
            if now_bytes <= peak_bytes:
                return None
            total_bytes += now_bytes - allocated_bytes
        return total_bytes or None

    def _figures(self, name: str) -> tuple[int, int]:
        import torch

        return torch.cuda.memory_allocated(name), torch.cuda.max_memory_allocated(name)


def measure(
    model: PreTrainedModel,
    caches: Iterable[Cache],
    engine: WeightEngine | None = None,
    *,
    demoted: bool = False,
    host_copies_bytes: int = 0,
) -> MemoryUse:
    """Add up the weights of `model` and its `caches` where they are now.

    Parameters
    ----------
    engine
        Knows where the weights are, if they do not simply stay in the model.
    demoted
        Whether all that belongs on accelerators is in host memory.
    host_copies_bytes
        Copies there of what belongs, or is, on accelerators.
    """
    held = sum((cache_stats(cache) for cache in caches), KVStats())
    on_host = demoted or model.device.type == "cpu"
    use = _weights_in(model) if engine is None else _weights_of(engine)
    if demoted and engine is not None:
        use = replace(use, host_weights_bytes=use.host_weights_bytes + host_copies_bytes)
    return replace(
        use,
        accelerator_kv_bytes=0 if on_host else held.accelerator_bytes,
        host_kv_bytes=held.host_bytes + (held.accelerator_bytes if on_host else 0),
        disk_kv_bytes=held.disk_bytes,
        host_copy_bytes=0 if demoted else host_copies_bytes,
    )


def _weights_of(engine: WeightEngine) -> MemoryUse:
    held = engine.memory()
    return MemoryUse(
        accelerator_weights_bytes=held.accelerator_layers_bytes + held.accelerator_other_bytes,
        host_weights_bytes=held.host_layers_bytes + held.host_other_bytes,
        disk_weights_bytes=held.disk_layers_bytes,
        accelerator_staging_bytes=held.accelerator_ring_bytes,
        host_staging_bytes=held.host_ring_bytes,
    )


def _weights_in(model: PreTrainedModel) -> MemoryUse:
    on_accelerator = on_host = 0
    for tensor in (*model.parameters(), *model.buffers()):
        size = tensor.numel() * tensor.element_size()
        if tensor.device.type == "cpu":
            on_host += size
        else:
            on_accelerator += size
    return MemoryUse(accelerator_weights_bytes=on_accelerator, host_weights_bytes=on_host)
