"""Which plans are alike in speed: what was observed of one of them holds for the others."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from ollm_widgets.planning.profile.identity import host_key

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class PlanShape:
    """What decides how fast a plan runs, as two keys.

    Parameters
    ----------
    key
        The same for plans of the same hardware, dimensions, placement and KV cache, whatever
        the model is called; 32 hexadecimal digits.
    regime
        The same for all plans on this hardware whose layers come from the same place, in words:
        ``"layers in place, not captured, x86_64, 16 GiB, 4 cores, torch 2.11"``.
    """

    key: str
    regime: str


def shape_of(plan: RuntimePlan) -> PlanShape:
    """Say which plans a plan is alike to.

    The planned context is not part of it: it decides what fits, and a prediction knows the
    tokens that it is made for.
    """
    resolved, placement, streaming = plan.resolved_model, plan.placement, plan.streaming
    profile, shape = resolved.capabilities, resolved.shape
    hardware = _hardware(plan)
    decisive = {
        "hardware": hardware,
        "backend": plan.backend_id,
        "device": plan.device.partition(":")[0],
        "dtype": plan.dtype,
        "dimensions": None if shape is None else asdict(replace(shape, context_length=0)),
        "parameters": profile.parameters if shape is None else None,
        "experts": (profile.experts, profile.active_experts),
        "quantized": resolved.quantization.method if resolved.quantization else None,
        "layers": (placement.accelerator_layers, placement.host_layers, placement.disk_layers),
        "devices": len(plan.devices),
        "packed": streaming.packed,
        "captured": streaming.captured_steps,
        "expert_streaming": streaming.expert_streaming,
        "read_direct": streaming.read_direct,
        "kv": (plan.kv.strategy, plan.kv.codec, plan.kv.window_tokens, plan.config.use_cache),
    }
    text = json.dumps(decisive, sort_keys=True)
    captured = "captured" if streaming.captured_steps else "not captured"
    return PlanShape(
        key=hashlib.sha256(text.encode()).hexdigest()[:32],
        regime=f"{_where_layers_are(plan)}, {captured}, {hardware}",
    )


def _where_layers_are(plan: RuntimePlan) -> str:
    """Say from where the slowest layers come: what bounds a pass."""
    if plan.placement.disk_layers:
        return "layers from disk"
    if plan.placement.host_layers and plan.device != "cpu":
        return "layers from RAM"
    return "layers in place"


def _hardware(plan: RuntimePlan) -> str:
    """Name the machine and the accelerators: what tells it from others that share a folder."""
    ram = plan.memory.tier("ram")
    ram_gib = round(ram.capacity_bytes / _GIB) if ram is not None else 0
    host = f"{platform.machine()}, {ram_gib} GiB, {host_key()}"
    return ", ".join((host, *(tier.title for tier in plan.memory.gpus)))
