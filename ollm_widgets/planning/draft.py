"""What has been settled so far while a plan is made."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.backend_choice import BackendChoice
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.device_choice import DeviceChoice
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.footprint import Demand, Footprint
from ollm_widgets.planning.memory import (
    attention_layers,
    device_available_bytes,
    disk_tier,
    memory_map,
)
from ollm_widgets.planning.parts import KVPlan, LayerPlacement, MemoryMap
from ollm_widgets.planning.weights import ITEM_BYTES
from ollm_widgets.settings import cache_dir


@dataclass(frozen=True, slots=True)
class Draft:
    """Backend, device, demand and placement; strategy and obstacles follow from them."""

    resolved: ResolvedModel
    config: RuntimeConfig
    machine: Machine
    backend: BackendChoice
    choice: DeviceChoice
    demand: Demand
    footprint: Footprint
    placement: LayerPlacement

    def with_spilled_kv(self) -> Draft:
        """Keep as much of the KV cache in memory as fits; the rest goes to disk."""
        beside_bytes = self.footprint.needed_bytes - self.footprint.kv_bytes
        room_bytes = device_available_bytes(self.choice.device, self.config) - beside_bytes
        kept_bytes = min(self.footprint.kv_bytes, max(room_bytes, 0))
        return replace(self, footprint=replace(self.footprint, kv_bytes=kept_bytes))

    def memory(self) -> MemoryMap:
        """Say what each tier would hold."""
        on_disk = self.placement.disk_layers > 0
        return memory_map(
            self.machine,
            self.choice.device,
            self.config,
            self.placement,
            self.footprint.sizes,
            kv_cache_bytes=self.footprint.kv_bytes,
            activations_bytes=self.footprint.activations_bytes,
            disk=disk_tier(self.resolved.model_path or cache_dir()) if on_disk else None,
        )


def sized_kv(kv: KVPlan, draft: Draft) -> KVPlan:
    """Fill in the bytes that a strategy takes, where the model's shape is known."""
    shape = draft.resolved.shape
    if shape is None or not draft.config.use_cache:
        return kv
    full_layers, _ = attention_layers(shape)
    per_token = 2 * full_layers * shape.kv_heads * shape.head_dim * ITEM_BYTES[draft.choice.dtype]
    return replace(kv, bytes_per_1k_tokens=1000 * per_token, total_bytes=draft.footprint.kv_bytes)
