"""Bytes of the KV cache, what of each tier may be used, and what a plan puts there."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ollm_widgets.errors import ConfigError
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.across import DeviceShare
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine
from ollm_widgets.planning.holding import (
    holding,
    layers_held,
    with_layers,
    with_slots,
    with_staging,
)
from ollm_widgets.planning.ids import DType, Place
from ollm_widgets.planning.memory_map import MemoryMap, TierMemory
from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
from ollm_widgets.planning.weights import ITEM_BYTES, WeightSizes
from ollm_widgets.render.units import format_memory, parse_bytes

_LEAST_MARGIN_BYTES = 512 * 1024**2
_MARGIN_SHARE = 0.05
_FULL_LAYERS = frozenset({"full_attention", "attention", "hybrid"})
_STATE_LAYERS = frozenset({"linear_attention", "mamba", "conv", "recurrent", "mlp", "moe"})


def kv_bytes(
    shape: ModelShape,
    dtype: DType,
    tokens: int,
    window: int | None = None,
    *,
    every_token: bool = False,
) -> int:
    """Bytes of the keys and values of one sequence; see `kv_layer_bytes`."""
    return sum(kv_layer_bytes(shape, dtype, tokens, window, every_token=every_token))


def kv_layer_bytes(
    shape: ModelShape,
    dtype: DType,
    tokens: int,
    window: int | None = None,
    *,
    every_token: bool = False,
) -> tuple[int, ...]:
    """Bytes of the keys and values of one sequence in each layer, while tokens are decoded.

    Two tensors ``[kv_heads, tokens, head_dim]`` a layer (transformers, ``DynamicLayer``). A
    sliding layer of the model keeps its own window (``DynamicSlidingWindowLayer``: one token
    less, and the one that is decoded). Latent attention keeps one latent and one rotary key for
    all heads (``DeepseekV3Attention``), which the shape has as one head of half their width.
    Linear attention keeps a state of fixed size (``LinearAttentionLayer``).

    Parameters
    ----------
    tokens
        Tokens of history.
    window
        Tokens that the strategy keeps at most.
    every_token
        Whether sliding layers keep every token too, as a cache of fixed addresses does, which
        captured steps write to. Where a strategy has a window, its cache is another.
    """
    kept = tokens if window is None else min(tokens, window)
    per_token = 2 * shape.kv_heads * shape.head_dim * ITEM_BYTES[dtype]
    # Layers that slide by themselves keep their own window, whatever bounds the others.
    slides = tokens
    if shape.sliding_window is not None and not (every_token and window is None):
        slides = min(tokens, shape.sliding_window)
    if shape.layer_types is None:
        own = kept if shape.sliding_window is None else min(kept, slides)
        return (per_token * own,) * shape.layers
    tokens_of = {"full": kept, "slides": slides, "state": 0}
    if not shape.cached:
        return tuple(per_token * tokens_of[_sight(each)] for each in shape.layer_types)
    return tuple(
        layer.token_elements * tokens_of[_sight(kind)] * ITEM_BYTES[dtype]
        + layer.state_elements * ITEM_BYTES[dtype]
        + layer.float_elements * ITEM_BYTES["float32"]
        for kind, layer in zip(shape.layer_types, shape.cached, strict=True)
    )


def _sight(layer_type: str) -> Literal["full", "slides", "state"]:
    """Say what a layer looks back on: everything, a window, or a state in place of tokens.

    The names are those of configs (``layer_types``, ``layers_block_type``). A ``hybrid`` layer
    has a state beside keys and values of everything.
    """
    if layer_type in _STATE_LAYERS:
        return "state"
    return "full" if layer_type in _FULL_LAYERS else "slides"


def attention_layers(shape: ModelShape) -> tuple[int, int]:
    """Return how many layers see everything, and how many only their own window."""
    if shape.layer_types is None:
        slides = shape.sliding_window is not None
        return (0, shape.layers) if slides else (shape.layers, 0)
    seen = Counter(map(_sight, shape.layer_types))
    return seen["full"], seen["slides"]


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
    budget = _budget(device, config)
    return available_bytes(device.total_bytes, device.free_bytes, budget)


def _budget(device: Device, config: RuntimeConfig) -> int | str | None:
    return config.cpu_memory_budget if device.kind == "cpu" else config.gpu_memory_budget


def check_budget_holds_a_layer(device: Device, config: RuntimeConfig, sizes: WeightSizes) -> None:
    """Refuse a budget below the largest layer.

    Raises
    ------
    ConfigError
        It says how much one layer needs.
    """
    name = "cpu_memory_budget" if device.kind == "cpu" else "gpu_memory_budget"
    budget = _budget(device, config)
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
    kv_layer_bytes: Sequence[int] = (),
    streaming: StreamingPlan | None = None,
    disk: TierMemory | None = None,
) -> MemoryMap:
    """Say what each tier would hold. All that is not a decoder layer is on the device.

    Parameters
    ----------
    kv_cache_bytes, kv_host_bytes, kv_disk_bytes
        The KV cache on the device, in host memory beside it, and on disk.
    kv_layer_bytes
        The KV cache of each layer; empty where it is not known.
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
    layers = layers_held(
        placement, sizes, kv_layer_bytes, device=device.name, packed=streaming.packed
    )

    def filled(tier: TierMemory) -> TierMemory:
        held = replace(with_layers(tier, placement, layers), kv_bytes=cached.get(tier.place, 0))
        if tier.place == own:
            held = replace(
                with_slots(held, streaming),
                embeddings_bytes=rest_bytes,
                activations_bytes=activations_bytes,
            )
        return with_staging(held, (streaming,)) if tier.place == "ram" else held

    return MemoryMap(tuple(filled(tier) for tier in tiers), layers)


def memory_map_across(
    machine: Machine,
    config: RuntimeConfig,
    placement: LayerPlacement,
    sizes: WeightSizes,
    shares: Sequence[DeviceShare],
    *,
    activations_bytes: int,
    packed: bool,
    kv_layer_bytes: Sequence[int] = (),
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
    kv_layer_bytes
        The KV cache of each layer; empty where it is not known.
    disk
        The disk's tier, where layers are read from it.
    """
    layers = layers_held(placement, sizes, kv_layer_bytes, packed=packed)
    tiers = []
    for share in shares:
        here = [layers[index] for index in share.layers if layers[index].tier == "accelerator"]
        number, first = share.device.name.rpartition(":")[2], share is shares[0]
        tier = _empty_tier("gpu", f"GPU {number} ({share.device.title})", share.device, config)
        tiers.append(
            replace(
                with_slots(holding(tier, here), share.streaming),
                embeddings_bytes=sizes.embeddings_bytes if first else 0,
                kv_bytes=share.kv_bytes,
                activations_bytes=activations_bytes,
            )
        )
    ram = with_layers(_empty_tier("ram", "RAM", machine.cpu, config), placement, layers)
    tiers.append(with_staging(ram, [share.streaming for share in shares]))
    if disk is not None:
        tiers.append(with_layers(disk, placement, layers))
    return MemoryMap(tuple(tiers), layers)


def _empty_tier(place: Place, title: str, device: Device, config: RuntimeConfig) -> TierMemory:
    budget = _budget(device, config)
    return TierMemory(
        place=place,
        title=title,
        capacity_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        used_by_others_bytes=max(device.total_bytes - device.free_bytes, 0),
        available_bytes=device_available_bytes(device, config),
        device=device.name,
        budget_bytes=None if budget is None else parse_bytes(budget),
    )
