"""Where layers shall go when a person changes the counts of a loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError, OutOfMemory
from ollm_widgets.planning.ids import LayerTier, OffloadPolicy, Place
from ollm_widgets.planning.memory_map import TierMemory
from ollm_widgets.planning.parts import LayerPlacement, packed_bytes
from ollm_widgets.planning.placement import place_layers
from ollm_widgets.render.units import format_memory

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

# The engine streams through no fewer, however few the plan had use for.
_LEAST_SLOTS = 2


def moved_placement(
    now: LayerPlacement,
    accelerator_layers: int | None,
    host_layers: int | None,
    policy: OffloadPolicy,
    *,
    on_cpu: bool,
) -> LayerPlacement:
    """Return the placement with other counts.

    A host count of None keeps in memory as many layers as are there; an accelerator count of None
    keeps its own, as far as the host's allows.

    Raises
    ------
    ConfigError
        If the model has fewer layers, or runs where there is no accelerator.
    """
    layers = len(now.tiers)
    if on_cpu and accelerator_layers:
        raise ConfigError(
            "offload_gpu_layers",
            f"{accelerator_layers} layers on an accelerator were asked for, and this model runs "
            "on the CPU.",
            hint="Load it on a GPU, or set offload_cpu_layers.",
        )
    asked = {"offload_gpu_layers": accelerator_layers, "offload_cpu_layers": host_layers}
    for name, count in asked.items():
        if count is not None and not 0 <= count <= layers:
            raise ConfigError(name, f"{count} layers were asked for, the model has {layers}.")
    if accelerator_layers is not None and host_layers is not None:
        on_accelerator, in_host = accelerator_layers, host_layers
        if on_accelerator + in_host > layers:
            raise ConfigError(
                "offload_cpu_layers",
                f"{on_accelerator} + {in_host} layers were asked for, the model has {layers}.",
            )
    elif accelerator_layers is not None:
        on_accelerator = accelerator_layers
        in_host = min(now.host_layers + now.accelerator_layers, layers) - on_accelerator
        in_host = max(in_host, 0)
    else:
        in_host = now.host_layers if host_layers is None else host_layers
        on_accelerator = min(now.accelerator_layers, layers - in_host)
    return replace(place_layers(layers, on_accelerator, in_host, policy), devices=now.devices)


def require_room(
    plan: RuntimePlan, placement: LayerPlacement, layer_bytes: Sequence[int], *, on_cpu: bool
) -> None:
    """Check a placement against what the plan may use of each tier, before anything moves.

    Several accelerators are not looked at: the engine lowers layers that do not fit there.

    Parameters
    ----------
    plan
        Of the loaded model; all but its layers and their buffers stays as planned.
    layer_bytes
        Raw bytes of each layer.

    Raises
    ------
    OutOfMemory
        If a tier that would grow has too little room.
    """
    gpus = sum(tier.place == "gpu" for tier in plan.memory.tiers)
    for tier in plan.memory.tiers:
        if tier.place == "disk" or (tier.place == "gpu" and gpus > 1):
            continue
        needed = _needed(plan, tier, placement, layer_bytes, on_cpu=on_cpu)
        if needed > tier.available_bytes and needed > tier.needed_bytes:
            kept = placement.tiers.count(_OWN[tier.place])
            raise OutOfMemory(
                f"With {kept} of {len(placement.tiers)} layers kept there, {tier.title} would "
                f"hold {format_memory(needed)}; {format_memory(tier.available_bytes)} may be used.",
                tier=tier.place,
                needed_bytes=needed,
                free_bytes=tier.available_bytes,
                hint="Keep fewer layers there, or load the model with a larger budget.",
            )


_OWN: dict[Place, LayerTier] = {"gpu": "accelerator", "ram": "host", "disk": "disk"}


def _needed(
    plan: RuntimePlan,
    tier: TierMemory,
    placement: LayerPlacement,
    layer_bytes: Sequence[int],
    *,
    on_cpu: bool,
) -> int:
    streaming = plan.streaming
    pairs = tuple(zip(placement.tiers, layer_bytes, strict=True))
    kept = sum(size for where, size in pairs if where == _OWN[tier.place])
    if tier.place == "ram" and not on_cpu:
        kept = packed_bytes(kept) if streaming.packed else kept
        if streaming.stored_slot_bytes:
            kept = kept * streaming.stored_slot_bytes // streaming.slot_bytes
        passing = [size for where, size in pairs if where == "disk"]
        slots = streaming.staging_slots
    else:
        passing = [size for where, size in pairs if where != _OWN[tier.place]]
        slots = streaming.device_slots
    buffers = min(max(slots, _LEAST_SLOTS), len(passing)) * max(passing, default=0)
    if streaming.expert_streaming:
        buffers = tier.staging_bytes  # what passes is a few experts, not a layer
    return tier.needed_bytes - tier.layers_bytes - tier.staging_bytes + kept + buffers
