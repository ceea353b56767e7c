"""By how much memory falls short of a plan, and what would do."""

from __future__ import annotations

from dataclasses import replace

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.activations import LEAST_CHUNK_TOKENS
from ollm_widgets.planning.device_choice import fit_obstacle
from ollm_widgets.planning.draft import Draft, placed
from ollm_widgets.planning.footprint import largest
from ollm_widgets.planning.memory import check_budget_holds_a_layer
from ollm_widgets.planning.memory_map import TierMemory
from ollm_widgets.planning.spread import arranged
from ollm_widgets.planning.wording import tier_obstacle
from ollm_widgets.render.units import format_memory


def room_obstacles(draft: Draft) -> list[str]:
    """Say which memory falls short; nothing is said of a device that is not there."""
    sizes, device = draft.footprint.sizes, draft.choice.device
    if draft.choice.obstacle or sizes is None:
        return []
    try:
        check_budget_holds_a_layer(device, draft.config, sizes)
    except ConfigError as error:
        return [str(error)]
    memory = draft.memory()
    if memory.fits:
        return []
    if draft.backend.traits.supports_streaming and sizes.layer_bytes:
        return [_streaming_obstacle(draft, tier) for tier in memory.tiers if not tier.fits]
    return [fit_obstacle(draft.choice, draft.config, draft.demand) or tier_obstacle(memory)]


def _streaming_obstacle(draft: Draft, tier: TierMemory) -> str:
    parts = [
        (f"{tier.layer_count} of {len(draft.placement.tiers)} layers", tier.layers_bytes),
        (_buffers(draft, tier), tier.staging_bytes),
        ("embeddings and all else that is no layer", tier.embeddings_bytes),
        (f"the KV cache of {draft.demand.context_tokens:,} tokens", tier.kv_bytes),
        ("intermediate results", tier.activations_bytes),
    ]
    listed = ", ".join(f"{name} {format_memory(size)}" for name, size in parts if size)
    missing = format_memory(tier.needed_bytes - tier.available_bytes)
    return (
        f"It needs {format_memory(tier.needed_bytes)} of {tier.title} ({listed}), and "
        f"{format_memory(tier.available_bytes)} may be used: {missing} are missing. "
        f"{_way_out(draft, tier)}"
    )


def _buffers(draft: Draft, tier: TierMemory) -> str:
    streaming, on_cpu = draft.streaming, draft.choice.device.kind == "cpu"
    count = streaming.device_slots if tier.place == "gpu" or on_cpu else streaming.staging_slots
    if draft.shares and tier.place == "ram":
        count = sum(share.streaming.staging_slots for share in draft.shares)
    return f"buffers for {count} layer{'' if count == 1 else 's'} on the way"


def _way_out(draft: Draft, tier: TierMemory) -> str:
    """Name one change that makes it fit, the gentlest first."""
    config, choice, demand = draft.config, draft.choice, draft.demand
    on_cpu = choice.device.kind == "cpu"
    own = tier.place == ("ram" if on_cpu else "gpu")
    field = "offload_cpu_layers" if tier.place == "ram" else "offload_gpu_layers"
    if getattr(config, field):
        free = arranged(replace(draft, config=config.copy(**{field: None})))
        if free.memory().fits:
            placement = free.placement
            on_host = tier.place == "ram"
            fit = placement.host_layers if on_host else placement.accelerator_layers
            return f"Set {field}={fit}, or leave it empty for as many as fit."
    kind = choice.device.kind
    least_bytes = demand.must_hold_bytes(choice.dtype, kind)
    if own:
        if draft.shares:
            fewer_tokens = largest(lambda tokens: _fits(draft, tokens), demand.context_tokens)
        else:
            fewer_tokens = demand.largest_context(choice.dtype, kind, tier.available_bytes)
        if 0 < fewer_tokens < demand.context_tokens:
            return f"Plan for at most {fewer_tokens:,} context tokens."
        half_bytes = demand.must_hold_bytes("bfloat16", kind)
        if choice.dtype == "float32" and half_bytes <= tier.available_bytes:
            return f'Set dtype="bfloat16", which needs {format_memory(half_bytes)} at the least.'
    budget = "cpu_memory_budget" if tier.place == "ram" else "gpu_memory_budget"
    enough_bytes = least_bytes if own and not draft.shares else tier.needed_bytes
    if getattr(config, budget) is not None and enough_bytes <= tier.free_bytes:
        return f"Raise {budget} to at least {format_memory(enough_bytes)}."
    return "Unload another model, close other programs, or choose a smaller model."


def _fits(draft: Draft, tokens: int) -> bool:
    """Whether the layers fit across the same GPUs with another context."""
    demand = replace(draft.demand, context_tokens=tokens)
    if not demand.chunk_was_asked:
        demand = replace(demand, chunk_tokens=LEAST_CHUNK_TOKENS)
    footprint = demand.footprint(draft.choice.dtype, draft.choice.device.kind)
    return placed(replace(draft, demand=demand, footprint=footprint)).memory().fits
