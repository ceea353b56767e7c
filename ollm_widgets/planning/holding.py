"""What each tier holds of a plan: decoder layers, and the buffers that others pass through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ollm_widgets.planning.memory_map import LayerMemory, TierMemory
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.weights import WeightSizes


def layers_held(
    placement: LayerPlacement,
    sizes: WeightSizes | None,
    kv_layer_bytes: Sequence[int],
    *,
    device: str = "",
    packed: bool,
) -> tuple[LayerMemory, ...]:
    """Say what each layer takes where it is; nothing where the layers are not known.

    Parameters
    ----------
    kv_layer_bytes
        The KV cache of each layer; empty where it is not known.
    device
        Where the layers compute that the placement gives no device.
    packed
        Whether layers in host memory are packed.
    """
    total = len(placement.tiers)
    if sizes is None or len(sizes.layer_bytes) != total:
        return ()
    experts = sizes.expert_bytes or (0,) * total
    held_experts = sizes.held_experts or experts
    # On a CPU layers in host memory are where they run.
    run = ("accelerator", "host") if device == "cpu" else ("accelerator",)
    held = {
        "accelerator": sizes.layer_bytes,
        "host": sizes.layer_bytes if "host" in run else sizes.host_layer_bytes(packed=packed),
        "disk": sizes.stored_layer_bytes or sizes.layer_bytes,
    }
    cached = tuple(kv_layer_bytes) if len(kv_layer_bytes) == total else (0,) * total
    devices = placement.devices or (device,) * total
    layers = []
    for index, tier in enumerate(placement.tiers):
        size = held[tier][index]
        # Experts are never packed; on disk they are the same share of the layer as it is held.
        in_experts = experts[index] if tier in run else held_experts[index]
        if tier == "disk":
            in_experts = in_experts * size // max(sizes.held_layers[index], 1)
        layers.append(LayerMemory(index, tier, devices[index], size, in_experts, cached[index]))
    return tuple(layers)


def with_layers(
    tier: TierMemory, placement: LayerPlacement, layers: Sequence[LayerMemory]
) -> TierMemory:
    """Add all layers of a place; several GPUs have each their own, see `holding`."""
    wanted = {"gpu": "accelerator", "ram": "host", "disk": "disk"}[tier.place]
    tier = holding(tier, [layer for layer in layers if layer.tier == wanted])
    return replace(tier, layer_count=placement.tiers.count(wanted))


def holding(tier: TierMemory, layers: Sequence[LayerMemory]) -> TierMemory:
    """Add these layers."""
    return replace(
        tier,
        layers_bytes=sum(layer.weights_bytes for layer in layers),
        experts_bytes=sum(layer.experts_bytes for layer in layers),
        layer_count=len(layers),
    )


def with_slots(tier: TierMemory, streaming: StreamingPlan) -> TierMemory:
    """Add the buffers of the device that computes."""
    beside_bytes = streaming.expert_room_bytes + streaming.expert_cache_bytes
    return replace(
        tier,
        staging_bytes=tier.staging_bytes + streaming.device_bytes,
        ring_bytes=tier.ring_bytes + streaming.device_bytes - beside_bytes,
        expert_cache_bytes=streaming.expert_cache_bytes,
    )


def with_staging(tier: TierMemory, plans: Sequence[StreamingPlan]) -> TierMemory:
    """Add the pinned buffers between disk and accelerators."""
    slots_bytes = sum(plan.staging_slots * plan.read_slot_bytes for plan in plans)
    return replace(
        tier,
        staging_bytes=tier.staging_bytes + sum(plan.staging_bytes for plan in plans),
        ring_bytes=tier.ring_bytes + slots_bytes,
    )
