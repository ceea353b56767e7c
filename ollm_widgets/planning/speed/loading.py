"""What loading takes, by the stages under which its progress is reported."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.memory_map import MemoryMap
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.predicted import LoadStage
from ollm_widgets.planning.speed.step import launch_s_of, time_of
from ollm_widgets.planning.speed.wires import PAGE_CACHE, THE_DISK
from ollm_widgets.planning.speed.work import TOKEN_CALLS, layer_calls
from ollm_widgets.planning.weights import WeightSizes

# Of models whose classes are imported already: resolving and planning; a skeleton; each word of a
# tokenizer (from 49,152 to 128,256 of them) and each layer of a skeleton.
_PLAN_S = 0.017
_BUILD_S = 0.05
_WORD_S = 1.8e-6
_BUILT_LAYER_S = 0.0008
# Steps that Python calls for before it trusts a captured one: eager, captured and compared.
_STEPS_TO_CAPTURE = 7
# One thread of transformers beside the threads of the engine: 4.2 against 26 GB/s.
_TRANSFORMERS_SHARE = 1 / 6
# Into another dtype: 0.8 GB/s of the result on two cores that copy 20.
_CONVERTED_PER_COPIED = 1 / 25


@dataclass(frozen=True, slots=True)
class FileSpeed:
    """How fast a model's files can be read: ``"the page cache"`` or ``"the disk"``."""

    source: str
    bytes_per_s: float


def file_speeds(bandwidth: Bandwidth, file_bytes: int, room_bytes: int) -> tuple[FileSpeed, ...]:
    """Return how fast files may come, the fastest first; empty where nothing is known.

    Parameters
    ----------
    file_bytes
        What is read.
    room_bytes
        What the page cache may take: larger files come from the disk each time.
    """
    found = []
    cached = bandwidth.page_cache_bytes_per_s or bandwidth.host_copy_bytes_per_s
    disk = bandwidth.disk_bytes_per_s
    if cached and file_bytes <= room_bytes:
        found.append(FileSpeed(PAGE_CACHE, cached))
    if disk:
        found.append(FileSpeed(THE_DISK, disk))
    return tuple(found)


def file_room_bytes(memory: MemoryMap) -> int:
    """Return the host memory that nobody uses, beside what a plan puts there."""
    ram = memory.tier("ram")
    return max(ram.free_bytes - ram.needed_bytes, 0) if ram is not None else 0


def loaded_file_bytes(sizes: WeightSizes, run: PlannedRun) -> int:
    """Bytes of files that a load reads: all but layers that are read again in each pass."""
    stored = sizes.stored_layer_bytes or sizes.layer_bytes
    tiers = run.placement.tiers or ("host",) * len(stored)
    kept = sum(size for size, tier in zip(stored, tiers, strict=False) if tier != "disk")
    # What is no layer is seldom quantized.
    share = 1.0 if sizes.held_layer_bytes else _stored_share(sizes)
    return kept + round(sizes.embeddings_bytes * share)


def load_stages(
    sizes: WeightSizes,
    shape: ModelShape | None,
    bandwidth: Bandwidth,
    run: PlannedRun,
    speed: FileSpeed,
    *,
    step_s: float,
    generic: bool,
) -> tuple[LoadStage, ...]:
    """Predict the stages of a load, of files that are on this machine.

    Weights are read by several threads while those before them cross to the accelerator; layers
    that are packed cross back once they are. A model that stays in place is warmed up: its step
    is captured, or run once.

    Parameters
    ----------
    speed
        Where the files come from.
    step_s
        Seconds of a step.
    generic
        Whether transformers loads it, which builds and reads in one stage, with one thread.
    """
    words = shape.vocab_size if shape is not None else 0
    build_s = _BUILD_S + words * _WORD_S + len(sizes.layer_bytes) * _BUILT_LAYER_S
    file_bytes = loaded_file_bytes(sizes, run)
    share = _TRANSFORMERS_SHARE if generic and speed.source == PAGE_CACHE else 1.0
    reading_s = file_bytes / (speed.bytes_per_s * share)
    # An accelerator expands quantized layers itself.
    expands = bool(sizes.held_layer_bytes) and run.on_accelerator and not generic
    each = sizes.held_layers if expands else sizes.layer_bytes
    placed = list(zip(run.placement.tiers, each, strict=False))
    in_memory = sizes.embeddings_bytes + sum(size for tier, size in placed if tier != "disk")
    if _stored_share(sizes) != 1 and bandwidth.host_copy_bytes_per_s and not expands:
        converted = bandwidth.host_copy_bytes_per_s * _CONVERTED_PER_COPIED
        reading_s = max(reading_s, in_memory / converted)
    if run.on_accelerator:
        wire = bandwidth.host_to_device_bytes_per_s
        packed = run.streaming.packed
        in_host = sizes.host_layer_bytes(packed=packed)
        pairs = list(zip(run.placement.tiers, in_host, strict=False))
        beside = 0 if packed else sum(size for tier, size in pairs if tier == "host")
        back = sum(size for tier, size in pairs if tier == "host") if packed else 0
        reading_s = max(reading_s, time_of(in_memory - beside, wire)) + time_of(back, wire)
    if generic:
        stages = [LoadStage("Read weights", build_s + reading_s)]
    else:
        stages = [LoadStage("Build", build_s), LoadStage("Read weights", reading_s)]
    if generic or not run.streams:
        steps = _STEPS_TO_CAPTURE if run.streaming.captured_steps else 1
        called_s = steps * (layer_calls(sizes) + TOKEN_CALLS) * launch_s_of(bandwidth)
        stages.append(LoadStage("Warm up", max(called_s, step_s)))
    return (LoadStage("Plan", _PLAN_S), *stages)


def _stored_share(sizes: WeightSizes) -> float:
    """Bytes of weights in their files for each byte in memory."""
    stored = sum(sizes.stored_layer_bytes)
    return stored / sizes.layers_bytes if stored and sizes.layers_bytes else 1.0
