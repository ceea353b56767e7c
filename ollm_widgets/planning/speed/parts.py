"""What a token and a prompt are made of, part by part."""

from __future__ import annotations

from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.predicted import SpeedPart
from ollm_widgets.planning.speed.prompt import PromptWork, prompt_seconds
from ollm_widgets.planning.speed.step import (
    StepWork,
    launch_s_of,
    replay_s_of,
    time_of,
    unpack_rate_of,
)
from ollm_widgets.planning.speed.wires import PAGE_CACHE, THE_DISK, wire_title


def step_parts(work: StepWork, speeds: Bandwidth, run: PlannedRun) -> tuple[SpeedPart, ...]:
    """List what a pass waits for or does; what is none of its business is left out."""
    memory = "the accelerator's memory" if run.on_accelerator else "memory"
    wire = speeds.host_to_device_bytes_per_s
    moved = (
        (memory, work.read_bytes, speeds.read_bytes_per_s),
        (
            "decoding layers",
            work.unpacked_bytes,
            unpack_rate_of(speeds, on_cores=not run.on_accelerator),
        ),
        ("the wire, for what a token asks for", work.awaited_bytes, wire),
        (wire_title(run), work.wire_bytes, wire),
        (PAGE_CACHE, work.page_cache_bytes, speeds.page_cache_bytes_per_s),
        (THE_DISK, work.disk_bytes, speeds.disk_bytes_per_s),
    )
    counted = (
        ("small operations", work.replayed * replay_s_of(speeds)),
        ("calls by Python", work.launched * launch_s_of(speeds)),
    )
    found = [SpeedPart(name, size, rate or 0.0, time_of(size, rate)) for name, size, rate in moved]
    found += [SpeedPart(name, 0, 0.0, seconds) for name, seconds in counted]
    return tuple(part for part in found if part.moved_bytes or part.seconds)


def prompt_parts(work: PromptWork, speeds: Bandwidth, run: PlannedRun) -> tuple[SpeedPart, ...]:
    """List what a prompt waits for or does, up to its first token."""
    seconds = prompt_seconds(work, speeds)
    arithmetic = (
        SpeedPart("matrix products", work.weight_bytes, 0.0, seconds.products),
        SpeedPart("attention", 0, 0.0, seconds.attention),
        SpeedPart("Python around the request", 0, 0.0, seconds.asking),
    )
    found = tuple(part for part in arithmetic if part.seconds)
    return (*found, *step_parts(work.pass_work, speeds, run))
