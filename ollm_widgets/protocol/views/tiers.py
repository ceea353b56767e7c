"""The memory map of the plan: a bar for each tier, and where each decoder layer is."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from ollm_widgets.protocol.pieces import Place
from ollm_widgets.protocol.snapshot import (
    LayerRun,
    LayersView,
    MemoryBar,
    Segment,
    SegmentKind,
)
from ollm_widgets.render.units import format_memory
from ollm_widgets.session.edits import edit_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.ids import LayerTier
    from ollm_widgets.planning.memory_map import LayerMemory, MemoryMap, TierMemory
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.planning.traits import BackendTraits

_PLACES: dict[LayerTier, Place] = {"accelerator": "gpu", "host": "ram", "disk": "disk"}


def view_tiers(memory: MemoryMap) -> tuple[MemoryBar, ...]:
    """A bar for each tier, the fastest first."""
    return tuple(_bar(tier) for tier in memory.tiers)


def view_layers(
    plan: RuntimePlan, config: RuntimeConfig, traits: BackendTraits | None
) -> LayersView | None:
    """Where the decoder layers are; None where they are not known."""
    placement = plan.placement
    if not placement.tiers:
        return None
    movable = traits is not None and (traits.supports_cpu_offload or traits.supports_gpu_offload)
    return LayersView(
        runs=tuple(_runs(plan)),
        total=len(placement.tiers),
        gpu_layers=placement.accelerator_layers,
        ram_layers=placement.host_layers,
        has_gpu=plan.memory.tier("gpu") is not None,
        chosen_gpu=edit_text(config, "offload_gpu_layers"),
        chosen_ram=edit_text(config, "offload_cpu_layers"),
        disabled="" if movable or traits is None else traits.offload_reason,
    )


def _bar(tier: TierMemory) -> MemoryBar:
    ours_bytes = tier.layers_bytes + tier.embeddings_bytes if tier.place == "disk" else 0
    room_bytes = tier.staging_bytes - tier.ring_bytes - tier.expert_cache_bytes
    layers = f"{tier.layer_count} layer{'' if tier.layer_count == 1 else 's'}"
    stretches: tuple[tuple[SegmentKind, str, int, str], ...] = (
        # The files of the model are on the disk already.
        ("used", "in use", tier.used_by_others_bytes - ours_bytes, "Taken by others now."),
        ("embeddings", "embeddings", tier.embeddings_bytes, "All weights outside the layers."),
        (
            "layers",
            layers,
            tier.layers_bytes - tier.experts_bytes,
            "Weights of decoder layers, without experts that move one by one.",
        ),
        ("experts", "experts", tier.experts_bytes, "Experts of the layers that stay here."),
        ("ring", "buffers", tier.ring_bytes, "Slots that layers stream through."),
        ("expert-cache", "hot experts", tier.expert_cache_bytes, "Experts that were used lately."),
        ("staging", "staging", room_bytes, "Room for what is on its way."),
        ("kv", "KV", tier.kv_bytes, "Keys and values at the planned context."),
        ("activations", "work", tier.activations_bytes, "Intermediate results of a long prompt."),
    )
    # What a quota keeps from us is neither used nor free.
    on_disk = tier.place == "disk"
    capacity_bytes = tier.used_by_others_bytes + tier.free_bytes if on_disk else tier.capacity_bytes
    return MemoryBar(
        place=tier.place,
        label=tier.title,
        capacity_bytes=capacity_bytes,
        segments=tuple(
            Segment(kind=kind, label=label, size_bytes=size_bytes, help=meaning)
            for kind, label, size_bytes, meaning in stretches
            if size_bytes > 0
        ),
        text=_text(tier),
        device=tier.device,
        limit_bytes=0 if on_disk else tier.used_by_others_bytes + tier.available_bytes,
        limit_label=_limit(tier),
        missing_bytes=tier.missing_bytes,
    )


def _text(tier: TierMemory) -> str:
    if tier.missing_bytes:
        return f"{format_memory(tier.missing_bytes)} missing"
    needed, free = format_memory(tier.needed_bytes), format_memory(tier.free_bytes)
    # The files of the model are on the disk already, and take nothing of what is free.
    return f"{needed}, {free} free" if tier.place == "disk" else f"{needed} of {free} free"


def _limit(tier: TierMemory) -> str:
    if tier.budget_bytes is not None:
        return f"budget {format_memory(tier.budget_bytes)}"
    return f"margin {format_memory(tier.margin_bytes)}" if tier.margin_bytes else ""


def _runs(plan: RuntimePlan) -> Iterable[LayerRun]:
    layers = plan.memory.layers
    if not layers:
        yield from _runs_without_sizes(plan)
        return
    for alike, run in groupby(layers, _alike):
        first, *others = run
        place, device, weights_bytes, experts_bytes, kv_bytes = alike
        yield LayerRun(
            place=place,
            first=first.index,
            count=1 + len(others),
            weights_bytes=weights_bytes,
            experts_bytes=experts_bytes,
            kv_bytes=kv_bytes,
            device=device,
        )


def _alike(layer: LayerMemory) -> tuple[Place, str, int, int, int]:
    return (
        _PLACES[layer.tier],
        layer.device,
        layer.weights_bytes,
        layer.experts_bytes,
        layer.kv_bytes,
    )


def _runs_without_sizes(plan: RuntimePlan) -> Iterable[LayerRun]:
    for tier, run in groupby(enumerate(plan.placement.tiers), lambda pair: pair[1]):
        indices = [index for index, _tier in run]
        yield LayerRun(place=_PLACES[tier], first=indices[0], count=len(indices))
