"""What a pass of one token does under a placement: bytes by wire, calls and small operations."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.planning.parts import packed_bytes
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.speed.step import StepWork
from ollm_widgets.planning.weights import WeightSizes

# Calls that a decoder layer costs as transformers writes it: 55 operators, or 100 with a router and
# experts, and the Python around them. On two CPU cores and on an H200 a step takes about as long
# as this many small operations; a prompt takes fewer, as nothing is appended to a cache.
LAYER_CALLS, PROMPT_LAYER_CALLS = 110, 80
EXPERT_LAYER_CALLS, EXPERT_PROMPT_LAYER_CALLS = 250, 220
# Embedding, last norm, logits and the choice of a token; and the same by `generate`.
TOKEN_CALLS = 150
GENERATE_CALLS = 1500
# In a captured step of an H200 a kernel of a layer takes as long as 2.3 of those that `replay_s`
# is measured with, and a matrix product as 3.5 beside its bytes: until the first have come, and
# to add the parts of a sum. A layer like Llama's has 19 of the first and 7 of the second; a
# router, and gathering what it chose, add 13 of the first.
_PER_KERNEL, _PER_PRODUCT = 2.3, 3.5
LAYER_KERNELS = round(19 * _PER_KERNEL + 7 * _PER_PRODUCT)
EXPERT_LAYER_KERNELS = round(32 * _PER_KERNEL + 7 * _PER_PRODUCT)
TOKEN_KERNELS = 60
# An accelerator gathers the chosen experts into one tensor before it multiplies with them: they
# are written and read once more.
_GATHERED = 2


@dataclass(frozen=True, slots=True)
class StreamedBytes:
    """What layers that are elsewhere move in a pass.

    Parameters
    ----------
    to_device
        Over the fullest wire to an accelerator.
    awaited
        The part of it that is known only when a router has chosen.
    from_files
        Read from files, as they are stored there.
    decoded
        Raw bytes of what crosses packed, or quantized as it is stored.
    """

    to_device: int = 0
    awaited: int = 0
    from_files: int = 0
    decoded: int = 0


def step_work(
    sizes: WeightSizes,
    run: PlannedRun,
    *,
    history_bytes: int = 0,
    cold_kv_wire_bytes: int = 0,
    cold_kv_disk_bytes: int = 0,
    page_cached: bool = False,
    calls_beside: int = TOKEN_CALLS,
) -> StepWork:
    """Say what a pass of one token does. No field falls when a layer moves to a slower tier.

    Parameters
    ----------
    sizes, run
        The weights, and where its layers are.
    history_bytes
        Keys and values that attention reads, wherever they are.
    cold_kv_wire_bytes, cold_kv_disk_bytes
        Those that cross the wire to the accelerator in each pass, and that are read from disk.
    page_cached
        Whether the page cache holds what is read from the layers' files.
    calls_beside
        What Python does between two passes, in calls.
    """
    moved = streamed_bytes(sizes, run, whole_experts=False)
    on_cores = not run.on_accelerator
    launched = replayed = gathered_bytes = 0
    if not run.streaming.captured_steps:
        launched = layer_calls(sizes) + calls_beside
    if not on_cores:
        gathered_bytes = round(_GATHERED * sum(sizes.expert_bytes) * sizes.active_share)
        replayed = layer_kernels(sizes) + TOKEN_KERNELS
    return StepWork(
        read_bytes=sizes.read_per_token_bytes + gathered_bytes + history_bytes,
        wire_bytes=moved.to_device + cold_kv_wire_bytes,
        awaited_bytes=moved.awaited + cold_kv_wire_bytes,
        unpacked_bytes=moved.decoded,
        disk_bytes=cold_kv_disk_bytes + (0 if page_cached else moved.from_files),
        page_cache_bytes=moved.from_files if page_cached else 0,
        launched=launched,
        replayed=replayed,
        on_cores=on_cores,
    )


def layer_calls(sizes: WeightSizes) -> int:
    """Calls that Python makes for one token in all layers."""
    return _over_layers(sizes, LAYER_CALLS, EXPERT_LAYER_CALLS)


def prompt_layer_calls(sizes: WeightSizes) -> int:
    """Calls that Python makes for one chunk of a prompt in all layers."""
    return _over_layers(sizes, PROMPT_LAYER_CALLS, EXPERT_PROMPT_LAYER_CALLS)


def layer_kernels(sizes: WeightSizes) -> int:
    """Small operations of an accelerator in a pass through all layers."""
    return _over_layers(sizes, LAYER_KERNELS, EXPERT_LAYER_KERNELS)


def _over_layers(sizes: WeightSizes, plain: int, mixture: int) -> int:
    """Add up what each layer takes; where it is not known which have experts, all of them do."""
    layers = len(sizes.layer_bytes)
    mixtures = 0
    if sizes.experts:
        mixtures = sum(1 for size in sizes.expert_bytes if size) or layers
    return (layers - mixtures) * plain + mixtures * mixture


def streamed_bytes(sizes: WeightSizes, run: PlannedRun, *, whole_experts: bool) -> StreamedBytes:
    """Add up what the layers that are elsewhere move in a pass.

    Parameters
    ----------
    whole_experts
        All experts of a layer come, as a long prompt asks for; else only those that a token
        chooses and that the cache of hot experts does not hold. It is taken to hold of the
        chosen ones the same share as of all.
    """
    tiers = run.placement.tiers
    if not run.streams or len(sizes.layer_bytes) != len(tiers):
        return StreamedBytes()
    own = "accelerator" if run.on_accelerator else "host"
    by_expert = run.streaming.expert_streaming and bool(sizes.expert_bytes)
    none = (0,) * len(tiers)
    experts = sizes.expert_bytes if by_expert else none
    held, held_experts = sizes.held_layers, sizes.held_experts if by_expert else none
    moving = 1.0
    if by_expert and not whole_experts:
        streamed = sum(size for size, tier in zip(held_experts, tiers, strict=True) if tier != own)
        missing = max(streamed - run.streaming.expert_cache_bytes, 0) / streamed if streamed else 0
        moving = sizes.active_share * missing
    packed = run.streaming.packed
    stored = sizes.stored_layer_bytes or sizes.layer_bytes
    devices = run.placement.devices or ("",) * len(tiers)
    to_device: dict[str, int] = {}
    awaited: dict[str, int] = {}
    from_files = decoded = 0
    for index, tier in enumerate(tiers):
        if tier == own:
            continue
        in_experts, held_in_experts = experts[index], held_experts[index]
        raw, dense = sizes.layer_bytes[index] - in_experts, held[index] - held_in_experts
        chosen = round(held_in_experts * moving)
        if tier == "disk":
            from_files += round(stored[index] * (dense + chosen) / max(held[index], 1))
        packs = packed and dense == raw
        if held_in_experts != in_experts:
            # Those that a cache holds are expanded too.
            decoded += round(in_experts * (1.0 if whole_experts else sizes.active_share))
        if dense != raw:
            decoded += raw
        if run.on_accelerator:
            device = devices[index]
            ahead = packed_bytes(dense) if packs and tier == "host" else dense
            to_device[device] = to_device.get(device, 0) + ahead + chosen
            awaited[device] = awaited.get(device, 0) + (0 if whole_experts else chosen)
            # One from disk comes raw. Counting it as decoded keeps a slower tier from looking
            # cheaper, and is nothing beside its way from disk.
            decoded += dense if packs else 0
    return StreamedBytes(
        to_device=max(to_device.values(), default=0),
        awaited=max(awaited.values(), default=0),
        from_files=from_files,
        decoded=decoded,
    )
