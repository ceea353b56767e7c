"""What planning must know of a backend, as data that the backend hands over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ollm_widgets.planning.ids import BackendId, DeviceKind, KVStrategyId

_ALL_STRATEGIES: tuple[KVStrategyId, ...] = get_args(KVStrategyId)
_ALL_DEVICES: frozenset[DeviceKind] = frozenset({"cpu", "cuda", "mps"})


@dataclass(frozen=True, slots=True)
class BackendTraits:
    """What a backend can do.

    Parameters
    ----------
    backend_id, title
        Its id, and its name for people.
    unavailable
        Why it cannot run anything; empty when it can.
    generic_kinds
        Kinds of model it loads (``causal-lm``, ...) to give them text.
    image_kinds
        Kinds of model that it gives images to, beside text.
    kv_strategies
        KV strategies it can hold, the preferred first.
    supports_disk_cache
        Whether KV pages can go to disk.
    supports_cpu_offload, supports_gpu_offload
        Whether layers can stay in host memory while an accelerator computes, and whether some
        can stay on the accelerator while the rest is elsewhere.
    supports_adapter
        Whether a PEFT adapter can be laid over the model.
    offload_reason
        Why layers cannot be placed one by one; empty when they can.
    supports_streaming
        Whether layers that no memory keeps are read from disk each pass, through the buffers
        of a `StreamingPlan`.
    device_kinds
        Kinds of device it computes on.
    """

    backend_id: BackendId
    title: str
    unavailable: str
    generic_kinds: frozenset[str]
    kv_strategies: tuple[KVStrategyId, ...]
    supports_disk_cache: bool
    supports_cpu_offload: bool
    supports_gpu_offload: bool
    supports_adapter: bool
    offload_reason: str
    supports_streaming: bool = False
    image_kinds: frozenset[str] = frozenset()
    device_kinds: frozenset[DeviceKind] = _ALL_DEVICES


GENERIC_TRAITS = BackendTraits(
    backend_id="transformers-generic",
    title="transformers",
    unavailable="",
    generic_kinds=frozenset({"causal-lm"}),
    kv_strategies=_ALL_STRATEGIES,
    supports_disk_cache=True,
    supports_cpu_offload=False,
    supports_gpu_offload=False,
    supports_adapter=False,
    offload_reason="transformers-generic keeps the whole model on one device.",
    image_kinds=frozenset({"image-text-to-text"}),
)

NATIVE_TRAITS = BackendTraits(
    backend_id="optimized-native",
    title="optimized native",
    unavailable="",
    generic_kinds=frozenset({"causal-lm", "image-text-to-text"}),
    kv_strategies=_ALL_STRATEGIES,
    supports_disk_cache=True,
    supports_cpu_offload=True,
    supports_gpu_offload=True,
    supports_adapter=False,
    offload_reason="",
    supports_streaming=True,
    image_kinds=frozenset({"image-text-to-text"}),
    device_kinds=frozenset({"cpu", "cuda"}),
)
