"""Measured memory of a runtime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.kv.cache import cache_bytes

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Measured bytes of one runtime, by tier and kind."""

    accelerator_weights_bytes: int = 0
    host_weights_bytes: int = 0
    accelerator_kv_bytes: int = 0
    host_kv_bytes: int = 0

    @property
    def accelerator_bytes(self) -> int:
        """Everything on the accelerator."""
        return self.accelerator_weights_bytes + self.accelerator_kv_bytes

    @property
    def host_bytes(self) -> int:
        """Everything in host memory."""
        return self.host_weights_bytes + self.host_kv_bytes


def measure(model: PreTrainedModel, caches: Iterable[Cache]) -> MemoryUse:
    """Add up the tensors of `model` and `caches` where they are now."""
    on_accelerator = on_host = 0
    for tensor in (*model.parameters(), *model.buffers()):
        size = tensor.numel() * tensor.element_size()
        if tensor.device.type == "cpu":
            on_host += size
        else:
            on_accelerator += size
    kv_bytes = sum(cache_bytes(cache) for cache in caches)
    kv_on_host = model.device.type == "cpu"
    return MemoryUse(
        accelerator_weights_bytes=on_accelerator,
        host_weights_bytes=on_host,
        accelerator_kv_bytes=0 if kv_on_host else kv_bytes,
        host_kv_bytes=kv_bytes if kv_on_host else 0,
    )
