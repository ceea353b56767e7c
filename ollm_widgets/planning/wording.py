"""Why a plan is as it is, in sentences for people."""

from __future__ import annotations

from ollm_widgets.models.absent import download_hint
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.draft import Draft
from ollm_widgets.planning.parts import KVPlan, MemoryMap
from ollm_widgets.render.units import format_bytes, format_memory


def why_it_runs(draft: Draft, memory: MemoryMap) -> str:
    """Say what runs where, and how much memory it takes."""
    device = draft.choice.device
    place = "the CPU" if device.kind == "cpu" else device.title
    tier = memory.tier("ram" if device.kind == "cpu" else "gpu")
    if draft.footprint.sizes is None or tier is None:
        fits = "Its size is not known before it is loaded."
    else:
        fits = f"It needs {tier.summary()} of memory that may be used."
    return f"{draft.backend.backend_id} runs it on {place} in {draft.choice.dtype}. {fits}"


def details_of(draft: Draft, kv: KVPlan, obstacles: tuple[str, ...]) -> tuple[str, ...]:
    """Give the sentences beside the reason; what is said there already is left out."""
    if not draft.resolved.is_supported():
        return ()
    details = [draft.choice.why] if draft.choice.why else []
    details += draft.backend.notes
    if kv.why not in obstacles:
        details.append(f"KV cache: {kv.strategy}. {kv.why}")
    if draft.resolved.shape is None:
        details.append("The size of its KV cache is known once its config is on this machine.")
    if not draft.config.use_cache:
        details.append("use_cache=False: nothing is kept between tokens.")
    return tuple(details)


def tier_obstacle(memory: MemoryMap) -> str:
    """Say which tier cannot hold its part."""
    tier = next(tier for tier in memory.tiers if not tier.fits)
    return (
        f"It needs {format_memory(tier.needed_bytes)} of {tier.title}, and "
        f"{format_memory(tier.available_bytes)} may be used. "
        "Plan for fewer context tokens, unload another model, or pick a smaller one."
    )


def missing_files(resolved: ResolvedModel) -> str:
    """Say that the files are not here, and how to get them."""
    if not resolved.is_downloadable():
        return "Its files are not on this machine."
    size_bytes = resolved.capabilities.bytes_on_disk
    size = f" ({format_bytes(size_bytes)})" if size_bytes else ""
    return f"Its files{size} are not on this machine. {download_hint(resolved)}"
