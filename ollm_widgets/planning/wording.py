"""Why a plan is as it is, in sentences for people."""

from __future__ import annotations

from ollm_widgets.models.absent import download_hint
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.draft import Draft
from ollm_widgets.planning.memory_map import MemoryMap
from ollm_widgets.planning.parts import PACKED_SHARE, KVPlan, listed
from ollm_widgets.planning.speed.predicted import SpeedPrediction
from ollm_widgets.planning.speed.wires import unmeasured_wires
from ollm_widgets.render.units import format_bytes, format_memory


def why_it_runs(draft: Draft, memory: MemoryMap) -> str:
    """Say what runs where, and how much memory it takes."""
    device = draft.choice.device
    place = "on the CPU" if device.kind == "cpu" else f"on {device.title}"
    place = _across(draft) if draft.spreads else place
    tiers = (
        [tier for tier in (memory.tier("ram"),) if tier] if device.kind == "cpu" else memory.gpus
    )
    if draft.footprint.sizes is None or not tiers:
        fits = "Its size is not known before it is loaded."
    else:
        needs = listed([tier.summary() for tier in tiers])
        fits = f"It needs {needs} of memory that may be used."
    runs = f"{draft.backend.backend_id} runs it {place} in {draft.choice.dtype}."
    return " ".join(filter(None, (runs, fits, _what_streams(draft))))


def details_of(
    draft: Draft, kv: KVPlan, speed: SpeedPrediction | None, obstacles: tuple[str, ...]
) -> tuple[str, ...]:
    """Give the sentences beside the reason; what is said there already is left out."""
    if not draft.resolved.is_supported():
        return ()
    details = [draft.choice.why] if draft.choice.why else []
    details += draft.backend.notes
    details += _how_it_expands(draft)
    details += _how_it_streams(draft)
    sizes = draft.footprint.sizes
    if speed is None and sizes is not None and draft.memory().fits:
        unmeasured = unmeasured_wires(sizes, None, draft.run)
        if unmeasured:
            details.append(
                f"Its speed is not predicted: the bandwidth of {unmeasured} is not known."
            )
    if kv.why not in obstacles:
        details.append(f"KV cache: {kv.strategy}. {kv.why}")
    if draft.resolved.shape is None:
        details.append("The size of its KV cache is known once its config is on this machine.")
    if not draft.config.use_cache:
        details.append("use_cache=False: nothing is kept between tokens.")
    return tuple(details)


def _across(draft: Draft) -> str:
    """Say how the layers are shared out: ``"across cuda:0 and cuda:1, 16 layers each,"``."""
    counts = [len(share.layers) for share in draft.shares]
    names = [share.device.name for share in draft.shares]
    if len(set(counts)) == 1:
        return f"across {listed(names)}, {_layers(counts[0])} each,"
    pairs = zip(names, counts, strict=True)
    return f"across {listed([f'{name} ({_layers(count)})' for name, count in pairs])}"


def _layers(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _what_streams(draft: Draft) -> str:
    """Say how many layers are elsewhere, and where; empty if none is."""
    placement, layers = draft.placement, len(draft.placement.tiers)
    if not draft.run.streams:
        return ""
    in_host = placement.host_layers if draft.run.on_accelerator else 0
    places = [
        f"{count} from {place}"
        for count, place in ((in_host, "RAM"), (placement.disk_layers, "disk"))
        if count
    ]
    streams = "streams" if in_host + placement.disk_layers == 1 else "stream"
    what = f"Of its {layers} layers, {' and '.join(places)} {streams}"
    if draft.spreads:
        return f"{what} to them in turn in each pass; their copies run at the same time."
    return f"{what} through it in each pass."


def _how_it_streams(draft: Draft) -> list[str]:
    streaming, said = draft.streaming, []
    if draft.spreads:
        said.append("Steps are not captured in a graph, which holds those of one GPU only.")
    if streaming.packed:
        said.append(f"Layers in RAM are packed without loss to {PACKED_SHARE:.0%} of their bytes.")
    if streaming.expert_streaming:
        cache = streaming.expert_cache_bytes
        kept = f"; hot experts keep {format_memory(cache)}" if cache else ""
        said.append(f"While it answers, only the experts that are chosen move{kept}.")
    if streaming.read_direct:
        said.append("The page cache cannot hold what is read from disk, so it is read past it.")
    return said


def _how_it_expands(draft: Draft) -> list[str]:
    """Say what becomes of a quantized checkpoint."""
    quantization, sizes = draft.resolved.quantization, draft.footprint.sizes
    if quantization is None or not draft.backend.traits.supports_streaming:
        return []
    weights, dtype = f"Its {quantization.method} weights", draft.choice.dtype
    if sizes is None or not sizes.held_layer_bytes:
        said = [f"{weights} are expanded to {dtype} when loaded."]
        if draft.placement.disk_layers and sizes is not None:
            pairs = zip(draft.placement.tiers, sizes.stored_layer_bytes, strict=True)
            size = format_bytes(sum(size for tier, size in pairs if tier == "disk"))
            said.append(
                f"Those of layers on disk take {size} in the cache folder until it is closed."
            )
        return said
    said = [f"{weights} are expanded to {dtype} where they run."]
    if draft.run.streams:
        share = sum(sizes.held_layers) / max(sizes.layers_bytes, 1)
        said.append(
            f"Layers elsewhere stay as they are stored, in {share:.0%} of the bytes that they run "
            "with, and cross so."
        )
    return said


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
