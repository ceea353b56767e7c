"""Why a plan is predicted to run as fast as it is, in sentences for people."""

from __future__ import annotations

from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.profile.bandwidth import Bandwidth
from ollm_widgets.planning.speed.loading import FileSpeed
from ollm_widgets.planning.speed.predicted import LoadStage
from ollm_widgets.planning.speed.prompt import PromptWork, prompt_seconds
from ollm_widgets.planning.speed.step import StepWork, launch_s_of, replay_s_of, seconds_of, time_of
from ollm_widgets.planning.speed.wires import PAGE_CACHE, THE_DISK, wire_title
from ollm_widgets.planning.weights import WeightSizes
from ollm_widgets.render.units import format_bytes, format_count, format_seconds


def token_words(work: StepWork, speeds: Bandwidth, sizes: WeightSizes, run: PlannedRun) -> str:
    """Say what bounds a token: ``"Each token reads 15.0 GB at the 4.2 TB/s measured here..."``."""
    seconds = seconds_of(work, speeds)
    took = format_seconds(seconds.total)
    if seconds.total == seconds.reading:
        files = (
            (PAGE_CACHE, work.page_cache_bytes, speeds.page_cache_bytes_per_s),
            (THE_DISK, work.disk_bytes, speeds.disk_bytes_per_s),
        )
        source, size, rate = max(files, key=lambda each: time_of(each[1], each[2]))
        return f"{format_bytes(size)} a token come from {source} at {_rate(rate)}: {took}."
    wire = speeds.host_to_device_bytes_per_s
    if seconds.total == seconds.wire:
        crossing = f"{format_bytes(work.wire_bytes)} a token cross {wire_title(run)}"
        return f"{crossing} at {_rate(wire)}: {took}."
    if seconds.total == seconds.calling:
        reading = f"reading its {format_bytes(work.read_bytes)}"
        return f"Calls by Python take {took} a token, longer than {reading}."
    # An accelerator gathers chosen experts before it multiplies with them.
    reads = "reads and writes" if run.on_accelerator and any(sizes.expert_bytes) else "reads"
    read = f"Each token {reads} {format_bytes(work.read_bytes)}"
    read += f" at the {_rate(speeds.read_bytes_per_s)} measured here"
    if 2 * time_of(work.awaited_bytes, wire) > seconds.total:
        waits = f"{format_bytes(work.awaited_bytes)} to cross {wire_title(run)}"
        return f"{read}, and waits for {waits} at {_rate(wire)}: {took}."
    if work.page_cache_bytes:
        copied = f"{format_bytes(work.page_cache_bytes)} are copied from {PAGE_CACHE}"
        return f"{read}, and {copied} by the same cores: {took}."
    small_s = work.replayed * replay_s_of(speeds) or work.launched * launch_s_of(speeds)
    what = "small operations" if work.replayed else "calls by Python"
    return f"{read}, and spends {format_seconds(small_s)} on {what}: {took}."


def hot_expert_words(sizes: WeightSizes, run: PlannedRun) -> str:
    """Say what is assumed of hot experts; empty where none are kept."""
    streaming = run.streaming
    own = "accelerator" if run.on_accelerator else "host"
    pairs = zip(sizes.held_experts, run.placement.tiers, strict=False)
    streamed = sum(size for size, tier in pairs if tier != own)
    if not streaming.expert_streaming or not streaming.expert_cache_bytes or not streamed:
        return ""
    share = min(streaming.expert_cache_bytes / streamed, 1.0)
    return f"Hot experts are taken to be {share:.0%} of those chosen, as they are of all."


def prompt_words(
    work: PromptWork, speeds: Bandwidth, sizes: WeightSizes, prompt_tokens: int, run: PlannedRun
) -> str:
    """Say what bounds a prompt."""
    seconds = prompt_seconds(work, speeds)
    prompt = f"A prompt of {prompt_tokens:,} token{'' if prompt_tokens == 1 else 's'}"
    took = format_seconds(seconds.total)
    if seconds.bound in ("reading", "wire"):
        source = THE_DISK if work.pass_work.disk_bytes else PAGE_CACHE
        where = source if seconds.bound == "reading" else wire_title(run)
        return f"{prompt} takes one pass over {where}: {took}."
    if seconds.bound == "calling":
        return f"{prompt} takes the {took} of Python's calls for it."
    each = f"2 x {format_count(sizes.parameters_per_token)} operations a token"
    giga = speeds.flops_per_s / 1e9
    rate = f"{giga / 1000:,.0f} TFLOP/s" if giga >= 10_000 else f"{giga:,.0f} GFLOP/s"
    return f"{prompt} does {each} at {rate}, and attention: {took}."


def load_words(stages: tuple[LoadStage, ...], speed: FileSpeed, sooner_s: float | None) -> str:
    """Say what a load reads from, and what it takes where the page cache holds the files."""
    took = format_seconds(sum(stage.seconds for stage in stages))
    words = f"Loading takes {took} with its files from {speed.source} at {_rate(speed.bytes_per_s)}"
    if sooner_s is None:
        return f"{words}."
    return f"{words}, {format_seconds(sooner_s)} while {PAGE_CACHE} holds them."


def _rate(bytes_per_s: float | None) -> str:
    return f"{format_bytes(bytes_per_s or 0.0)}/s"
