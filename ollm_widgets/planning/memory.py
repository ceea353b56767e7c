"""Bytes of the KV cache, what of each tier may be used, and what a plan puts there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.across import DeviceShare
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.planning.ids import DType, Place
from ollm_widgets.planning.memory_map import MemoryMap, TierMemory
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.weights import ITEM_BYTES, WeightSizes
from ollm_widgets.render.units import format_memory, parse_bytes

_LEAST_MARGIN_BYTES = 512 * 1024**2
_MARGIN_SHARE = 0.05


def kv_bytes(shape: ModelShape, dtype: DType, tokens: int, window: int | None = None) -> int:
    """Bytes of the keys and values of one sequence.

    Two tensors ``[kv_heads, tokens, head_dim]`` a layer. Sliding layers of the model keep
    their own window; linear-attention layers keep a state of fixed size, not counted here.

    Parameters
    ----------
    tokens
        Tokens of history.
    window
        Tokens that the strategy keeps at most.
    """
    return sum(kv_layer_bytes(shape, dtype, tokens, window))


def kv_layer_bytes(
    shape: ModelShape, dtype: DType, tokens: int, window: int | None = None
) -> tuple[int, ...]:
    """Bytes of the keys and values of one sequence in each layer; see `kv_bytes`."""
    kept = tokens if window is None else min(tokens, window)
    per_token = 2 * shape.kv_heads * shape.head_dim * ITEM_BYTES[dtype]
    if shape.layer_types is None:
        own = kept if shape.sliding_window is None else min(kept, shape.sliding_window)
        return (per_token * own,) * shape.layers
    # Layers that slide by themselves keep their own window, whatever bounds the others.
    slides = tokens if shape.sliding_window is None else min(tokens, shape.sliding_window)
    tokens_of = {"full_attention": kept, "linear_attention": 0}
    return tuple(per_token * tokens_of.get(each, slides) for each in shape.layer_types)


def attention_layers(shape: ModelShape) -> tuple[int, int]:
    """Return how many layers see everything, and how many only their own window."""
    if shape.layer_types is None:
        slides = shape.sliding_window is not None
        return (0, shape.layers) if slides else (shape.layers, 0)
    full = shape.layer_types.count("full_attention")
    linear = shape.layer_types.count("linear_attention")
    return full, len(shape.layer_types) - full - linear


def available_bytes(capacity_bytes: int, free_bytes: int, budget: int | str | None) -> int:
    """Return what a plan may use: free memory less a margin, or a budget within what is free.

    The margin is 512 MiB or 5 % of the capacity, whichever is more.
    """
    if budget is not None:
        return min(parse_bytes(budget), free_bytes)
    margin_bytes = max(_LEAST_MARGIN_BYTES, int(capacity_bytes * _MARGIN_SHARE))
    return max(free_bytes - margin_bytes, 0)


def device_available_bytes(device: Device, config: RuntimeConfig) -> int:
    """Return what a plan may use of a device's memory."""
    budget = config.cpu_memory_budget if device.kind == "cpu" else config.gpu_memory_budget
    return available_bytes(device.total_bytes, device.free_bytes, budget)


def check_budget_holds_a_layer(device: Device, config: RuntimeConfig, sizes: WeightSizes) -> None:
    """Refuse a budget below the largest layer.

    Raises
    ------
    ConfigError
        It says how much one layer needs.
    """
    on_cpu = device.kind == "cpu"
    name = "cpu_memory_budget" if on_cpu else "gpu_memory_budget"
    budget = config.cpu_memory_budget if on_cpu else config.gpu_memory_budget
    largest_bytes = max(sizes.layer_bytes, default=0)
    if budget is not None and parse_bytes(budget) < largest_bytes:
        needed = format_memory(largest_bytes)
        raise ConfigError(
            name,
            f"{format_memory(parse_bytes(budget))} cannot hold one layer, which needs {needed}.",
            hint=f"Give it at least {needed}, and {format_memory(sizes.total_bytes)} to hold the "
            "whole model.",
        )


def disk_tier(folder: Path) -> TierMemory:
    """Return the disk that holds `folder`; weights are there already and need no room."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return TierMemory("disk", "Disk", usage.total, usage.free, usage.used, usage.total)


def memory_map(
    machine: Machine,
    device: Device,
    config: RuntimeConfig,
    placement: LayerPlacement,
    sizes: WeightSizes | None,
    *,
    kv_cache_bytes: int,
    activations_bytes: int,
    kv_host_bytes: int = 0,
    kv_disk_bytes: int = 0,
    streaming: StreamingPlan | None = None,
    disk: TierMemory | None = None,
) -> MemoryMap:
    """Say what each tier would hold. All that is not a decoder layer is on the device.

    Parameters
    ----------
    kv_cache_bytes, kv_host_bytes, kv_disk_bytes
        The KV cache on the device, in host memory beside it, and on disk.
    streaming
        The buffers of layers that stream, where any do.
    disk
        The disk's tier, where layers are read from it or keys and values go to it.
    """
    streaming = streaming or StreamingPlan()
    rest_bytes = sizes.embeddings_bytes if sizes is not None else 0
    on_accelerator = device.kind != "cpu"
    tiers: list[TierMemory] = []
    accelerator = device if on_accelerator else next(iter(machine.accelerators), None)
    if accelerator is not None:
        tiers.append(_empty_tier("gpu", f"GPU ({accelerator.title})", accelerator, config))
    tiers.append(_empty_tier("ram", "RAM", machine.cpu, config))
    if disk is not None:
        tiers.append(disk)
    own: Place = "gpu" if on_accelerator else "ram"
    cached: dict[Place, int] = {"ram": kv_host_bytes, "disk": kv_disk_bytes}
    cached[own] = cached.get(own, 0) + kv_cache_bytes
    return MemoryMap(
        tuple(
            replace(
                _with_layers(tier, placement, sizes, packed=streaming.packed),
                embeddings_bytes=rest_bytes if tier.place == own else 0,
                kv_bytes=cached.get(tier.place, 0),
                activations_bytes=activations_bytes if tier.place == own else 0,
                staging_bytes=(streaming.device_bytes if tier.place == own else 0)
                + (streaming.staging_bytes if tier.place == "ram" else 0),
            )
            for tier in tiers
        )
    )


def memory_map_across(
    machine: Machine,
    config: RuntimeConfig,
    placement: LayerPlacement,
    sizes: WeightSizes,
    shares: Sequence[DeviceShare],
    *,
    activations_bytes: int,
    packed: bool,
    disk: TierMemory | None = None,
) -> MemoryMap:
    """Say what each of several accelerators would hold, and host memory and disk beside them.

    Parameters
    ----------
    shares
        What each accelerator has; the first also holds all that is not a decoder layer.
    activations_bytes
        Intermediate results on each of them.
    packed
        Whether layers in host memory are packed.
    disk
        The disk's tier, where layers are read from it.
    """
    tiers = []
    for share in shares:
        kept = [index for index in share.layers if placement.tiers[index] == "accelerator"]
        number, first = share.device.name.rpartition(":")[2], share is shares[0]
        tiers.append(
            replace(
                _empty_tier("gpu", f"GPU {number} ({share.device.title})", share.device, config),
                layers_bytes=sum(sizes.layer_bytes[index] for index in kept),
                layer_count=len(kept),
                embeddings_bytes=sizes.embeddings_bytes if first else 0,
                kv_bytes=share.kv_bytes,
                activations_bytes=activations_bytes,
                staging_bytes=share.streaming.device_bytes,
            )
        )
    ram = _empty_tier("ram", "RAM", machine.cpu, config)
    staging_bytes = sum(share.streaming.staging_bytes for share in shares)
    tiers.append(
        replace(_with_layers(ram, placement, sizes, packed=packed), staging_bytes=staging_bytes)
    )
    if disk is not None:
        tiers.append(_with_layers(disk, placement, sizes, packed=packed))
    return MemoryMap(tuple(tiers))


def _empty_tier(place: Place, title: str, device: Device, config: RuntimeConfig) -> TierMemory:
    return TierMemory(
        place=place,
        title=title,
        capacity_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        used_by_others_bytes=max(device.total_bytes - device.free_bytes, 0),
        available_bytes=device_available_bytes(device, config),
    )


def _with_layers(
    tier: TierMemory, placement: LayerPlacement, sizes: WeightSizes | None, *, packed: bool
) -> TierMemory:
    wanted = {"gpu": "accelerator", "ram": "host", "disk": "disk"}[tier.place]
    each: tuple[int, ...] = ()
    if sizes is not None:
        each = sizes.stored_layer_bytes if tier.place == "disk" else sizes.layer_bytes
        if tier.place == "ram":
            each = sizes.host_layer_bytes(packed=packed)
    pairs = zip(placement.tiers, each, strict=False)
    held_bytes = sum(size for where, size in pairs if where == wanted)
    return replace(tier, layers_bytes=held_bytes, layer_count=placement.tiers.count(wanted))
