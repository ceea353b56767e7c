"""Our runtime through its public interface, with figures against its own plan."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import machine
import peers
from decoding import Generate, Pick, Reference, compare, prompt, time_decoding
from figures import Bench, Figures, Wire
from shapes import TINY, TINY_FP8, TINY_MOE, Shape

from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.devices import Machine
from ollm_widgets.planning.memory_map import MemoryMap
from ollm_widgets.planning.parts import StreamingPlan
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.render.units import parse_bytes
from ollm_widgets.runtime.loaded import LoadedRuntime
from ollm_widgets.runtime.trace import Trace

if TYPE_CHECKING:
    import torch

_TOY_BUDGETS = {TINY.name: "640KiB", TINY_FP8.name: "2MiB", TINY_MOE.name: "800KiB"}

Edit = Callable[[RuntimePlan], RuntimePlan]


class EditingSelector(BackendSelector):
    """Plans as ever, then changes what no config asks for, to compare the planner's choices."""

    def __init__(self, edit: Edit) -> None:
        super().__init__()
        self._edit = edit

    def select(
        self, resolved: ResolvedModel, config: RuntimeConfig, machine: Machine | None = None
    ) -> RuntimePlan:
        """Make the plan, changed."""
        return self._edit(super().select(resolved, config, machine))


def as_planned(plan: RuntimePlan) -> RuntimePlan:
    """Change nothing."""
    return plan


def raw(plan: RuntimePlan) -> RuntimePlan:
    """Hold layers in host memory as they are."""
    if not plan.streaming.packed:
        return plan
    streaming = replace(plan.streaming, packed=False)
    passes = tuple(each for each in plan.specialization_pass_ids if each != "lossless-packing")
    gpu, ram = plan.memory.tier("gpu"), plan.memory.tier("ram")
    tiers = tuple(
        replace(tier, staging_bytes=streaming.device_bytes)
        if tier is gpu
        else replace(tier, layers_bytes=ram.layer_count * streaming.slot_bytes)
        if tier is ram and ram is not None
        else tier
        for tier in plan.memory.tiers
    )
    return plan.refine(streaming=streaming, specialization_pass_ids=passes, memory=MemoryMap(tiers))


def past_page_cache(plan: RuntimePlan) -> RuntimePlan:
    """Read layers with O_DIRECT, as from a checkpoint that no page cache holds."""
    return plan.refine(streaming=replace(plan.streaming, read_direct=True))


def through_page_cache(plan: RuntimePlan) -> RuntimePlan:
    """Read layers through the page cache."""
    return plan.refine(streaming=replace(plan.streaming, read_direct=False))


def load(
    bench: Bench, shape: Shape, edit: Edit = as_planned, *, context_tokens: int, **asked: Any
) -> tuple[LoadedRuntime, dict[str, float]]:
    """Load; gives the runtime and the seconds of each stage."""
    stages: dict[str, float] = {}
    latest = time.perf_counter()
    stage = "Plan"

    def progress(update: Any) -> None:
        nonlocal latest, stage
        now = time.perf_counter()
        stages[stage] = stages.get(stage, 0.0) + now - latest
        latest, stage = now, update.stage

    config = RuntimeConfig(
        bench.checkpoint(shape),
        backend="optimized-native",
        device=bench.device,
        dtype="bfloat16",
        context_tokens=context_tokens,
        **_on_this_device(bench, bench.shape(shape), asked),
    )
    runtime = RuntimeLoader(selector=EditingSelector(edit)).load(config, progress)
    machine.synchronize()
    stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - latest
    return runtime, stages


def generator(runtime: LoadedRuntime) -> Generate:
    """Greedy `generate` of a runtime, from nothing each time."""

    def generate(ids: torch.Tensor, tokens: int) -> torch.Tensor:
        # What the last request has left would spare this one its prompt.
        runtime.reset_kv_cache_instances()
        return runtime.generate(ids, GenerationConfig(max_new_tokens=tokens))

    return generate


def run(
    bench: Bench,
    shape: Shape,
    tokens: int,
    edit: Edit = as_planned,
    *,
    slow: bool = False,
    direct: bool = False,
    rounds: int = 2,
    pick: Pick = statistics.median,
    **asked: Any,
) -> Figures:
    """Load, decode, and hold everything against the plan.

    Parameters
    ----------
    slow
        Decode as few times as will do, and compare only what was timed.
    direct
        The bytes from disk come from the disk indeed, not from the page cache.
    rounds, pick
        How often to time, and which of the times counts.
    asked
        Fields of the config.
    """
    small = bench.shape(shape)
    count = bench.tokens(tokens)
    ids = prompt(small.vocab)
    machine.reset_gpu_peak()
    before = machine.reset_host_peak()
    start = time.perf_counter()
    runtime, stages = load(bench, shape, edit, context_tokens=_context(ids, count), **asked)
    load_s = time.perf_counter() - start
    with runtime:
        generate = generator(runtime)
        rounds = 1 if slow else rounds
        timing = time_decoding(generate, ids, count, warm=not slow, rounds=rounds, pick=pick)
        peak, host = machine.gpu_peak_bytes(), machine.host_peak_bytes()
        reference = Reference.load(peers.reference_path(bench, shape))
        same = compare(generate, ids, timing.tokens, reference, restarts=0 if slow else 4)
        held = runtime.memory()
        plan = runtime.plan
    return against_plan(
        Figures(
            timing.token_s,
            timing.first_token_s,
            (load_s,),
            seconds={**stages, "processor": timing.processor_s},
            moved_bytes=moved_bytes(bench, small, plan, direct=direct),
            gpu_peak_bytes=peak,
            host_peak_bytes=host,
            host_growth_bytes=host - before,
            tokens=same,
            note=f"{describe(plan)}; {held.host_bytes / 1e9:.2f} GB held in host memory",
        ),
        plan,
    )


def against_plan(figures: Figures, plan: RuntimePlan) -> Figures:
    """Add what the plan said of memory."""
    gpu, ram = plan.memory.tier("gpu"), plan.memory.tier("ram")
    on_cpu = plan.device == "cpu"
    budgets = plan.config.gpu_memory_budget, plan.config.cpu_memory_budget
    gpu_budget, host_budget = (None if each is None else parse_bytes(each) for each in budgets)
    return replace(
        figures,
        gpu_planned_bytes=None if gpu is None or on_cpu else gpu.needed_bytes,
        gpu_budget_bytes=gpu_budget,
        host_planned_bytes=None if ram is None else ram.needed_bytes,
        host_budget_bytes=host_budget,
    )


def run_traced(
    bench: Bench, shape: Shape, tokens: int, edit: Edit = as_planned, *, rounds: int, **asked: Any
) -> Figures:
    """Decode with and without a trace in turns: what looking costs, and what is seen."""
    small = bench.shape(shape)
    count = bench.tokens(tokens)
    ids = prompt(small.vocab)
    runtime, _stages = load(bench, shape, edit, context_tokens=_context(ids, count), **asked)
    with runtime:
        generate = generator(runtime)
        generate(ids, 2)
        plain, traced = [], []
        for _ in range(rounds):
            plain.append(time_decoding(generate, ids, count, warm=False).token_s)
            with runtime.trace() as trace:
                traced.append(time_decoding(generate, ids, count, warm=False).token_s)
        plan = runtime.plan
    # The best of each: what disturbs a run is the machine, not the trace.
    return Figures(
        min(traced),
        seconds={"untraced": min(plain)},
        moved_bytes=moved_bytes(bench, small, plan),
        note=f"{_where_time_went(trace)}; {describe(plan)}",
    )


def _where_time_went(trace: Trace) -> str:
    """Say the parts of a decoded token's pass, the median of each."""
    passes = [each for each in trace.passes if each.tokens == 1]
    parts = {
        "waiting for disk": [sum(layer.disk_wait_s for layer in each.layers) for each in passes],
        "for copies": [sum(layer.device_copy_s for layer in each.layers) for each in passes],
        "unpacking": [sum(layer.unpack_s for layer in each.layers) for each in passes],
        "computing": [sum(layer.compute_s for layer in each.layers) for each in passes],
        "layers in all": [each.total_s for each in passes],
    }
    texts = [
        f"{what} {statistics.median(seconds):.4f} s" for what, seconds in parts.items() if seconds
    ]
    return ", ".join(texts)


def _context(ids: torch.Tensor, tokens: int) -> int:
    """Tokens to plan for; comparing goes behind the prompt as well."""
    return ids.shape[1] + tokens


def moved_bytes(
    bench: Bench, shape: Shape, plan: RuntimePlan, *, direct: bool = False
) -> dict[Wire, float]:
    """What a token must move over each wire under this plan, experts without any cache hit."""
    disk_bytes = plan.placement.disk_layers * _layer_bytes(shape, plan)
    disk_bytes *= _stored_share(plan.streaming)
    moved: dict[Wire, float] = peers.own_memory(bench, shape)
    if bench.device != "cpu":
        host_bytes = plan.placement.host_layers * _layer_bytes(shape, plan)
        moved["host-to-gpu"] = host_bytes * _held_share(plan.streaming) + disk_bytes
    if disk_bytes:
        moved["disk" if direct else "page-cache"] = disk_bytes
    return moved


def _layer_bytes(shape: Shape, plan: RuntimePlan) -> float:
    """Bytes of a layer that move for a token, raw: of a mixture of experts the chosen ones."""
    if shape.experts and plan.streaming.expert_streaming:
        return shape.chosen_experts_bytes / shape.layers
    return shape.layers_bytes / shape.layers


def streamed_bytes(shape: Shape, plan: RuntimePlan) -> float:
    """Bytes of all layers from host memory, as they cross the wire once."""
    layer_bytes = shape.layers_bytes / shape.layers
    return plan.placement.host_layers * layer_bytes * _held_share(plan.streaming)


def describe(plan: RuntimePlan) -> str:
    """Say what the plan chose, and which passes did apply."""
    streaming = plan.streaming
    parts = [
        plan.placement.summary(),
        f"{streaming.device_slots} slots",
        f"{streaming.staging_slots} staging buffers" if streaming.staging_slots else "",
        "as stored" if streaming.stored_slot_bytes else "packed" if streaming.packed else "raw",
        "O_DIRECT" if streaming.read_direct else "",
        f"expert cache {streaming.expert_cache_bytes / 1e9:.2f} GB"
        if streaming.expert_streaming
        else "",
        f"chunks of {streaming.prefill_chunk_tokens}" if streaming.prefill_chunk_tokens else "",
        f"passes {' '.join(plan.applied_specialization_pass_ids)}",
    ]
    return ", ".join(part for part in parts if part)


def _held_share(streaming: StreamingPlan) -> float:
    """Bytes of a layer in host memory for each byte that it runs with."""
    from ollm_widgets.planning.parts import PACKED_SHARE

    return PACKED_SHARE if streaming.packed else _stored_share(streaming)


def _stored_share(streaming: StreamingPlan) -> float:
    """Bytes of a layer as its checkpoint has it for each byte that it runs with."""
    if not streaming.stored_slot_bytes:
        return 1.0
    return streaming.stored_slot_bytes / streaming.slot_bytes


def _on_this_device(bench: Bench, shape: Shape, asked: dict[str, Any]) -> dict[str, Any]:
    """Translate to a toy, or to a machine without a GPU, where host memory is the device."""
    asked = dict(asked)
    toy_layers = {32: shape.layers, 16: shape.layers // 2}
    if bench.tiny:
        for name in ("offload_gpu_layers", "offload_cpu_layers"):
            if asked.get(name):
                asked[name] = toy_layers[asked[name]]
        for name in ("gpu_memory_budget", "cpu_memory_budget"):
            if isinstance(asked.get(name), str):
                asked[name] = _TOY_BUDGETS[shape.name]
    if bench.device == "cpu" and "offload_gpu_layers" in asked:
        asked["offload_cpu_layers"] = asked.pop("offload_gpu_layers")
    if bench.device == "cpu" and "gpu_memory_budget" in asked:
        asked["cpu_memory_budget"] = asked.pop("gpu_memory_budget")
    return asked
