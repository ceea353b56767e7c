"""Decoding over several GPUs, each with a wire of its own, beside one of them.

    python tests/bench/weights_gpus.py
    python tests/bench/weights_gpus.py wires resident together-raw

Llama-3.1-8B shape, batch 1, a prompt of 64 tokens, greedy; a budget on each GPU, so that the
model takes all of them. `floor` is what the wires of all GPUs need, carrying at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import contender
import machine
import peers
from contender import Contender
from decoding import Reference, compare, prompt, time_decoding
from figures import Bench, Figures, Results, figures_of, speeds_of
from shapes import LLAMA_8B
from table import Goal, Table, number, ratio, times

_COPY_BYTES = 1 << 30
_COPIES = 4
_LAYERS = LLAMA_8B.layers
_HOST = {"offload_gpu_layers": 0, "offload_cpu_layers": _LAYERS}


class AllGpus(Bench):
    """Computes wherever a plan says."""

    @property
    def device(self) -> str:
        """Any GPU."""
        return "cuda"


def run_wires(_bench: Bench) -> Figures:
    """Copy from host memory to the first GPU alone, and to all of them at once."""
    import torch

    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    hosts = [torch.ones(_COPY_BYTES, dtype=torch.uint8, pin_memory=True) for _ in names]
    devices = [torch.empty(_COPY_BYTES, dtype=torch.uint8, device=name) for name in names]
    alone, together = [(devices[0], hosts[0])], list(zip(devices, hosts, strict=True))
    for copied in (alone, together):
        _copy_s(copied)
    alone_s, together_s = _copy_s(alone), _copy_s(together)
    peer = len(names) > 1 and torch.cuda.can_device_access_peer(0, 1)
    return Figures(
        speeds={"host-to-gpu": _COPIES * len(names) * _COPY_BYTES / together_s},
        note=f"one wire alone {_COPIES * _COPY_BYTES / alone_s / 1e9:.1f} GB/s, "
        f"{len(names)} GPUs, {'with' if peer else 'without'} access to each other",
    )


def _copy_s(pairs: Iterable[tuple[Any, Any]]) -> float:
    start = time.perf_counter()
    for _ in range(_COPIES):
        for device, host in pairs:
            device.copy_(host, non_blocking=True)
    _synchronize_all()
    return time.perf_counter() - start


def _synchronize_all() -> None:
    import torch

    for index in range(torch.cuda.device_count()):
        torch.cuda.synchronize(index)


def run_ours(
    bench: Bench, tokens: int, *, together: bool, edit: str = "as_planned", **asked: Any
) -> Figures:
    """Run our runtime on the first GPU, or wherever its plan says."""
    import ours
    import torch

    bench = AllGpus(bench.folder, bench.quick, bench.tiny, bench.cpu_only) if together else bench
    shape, count = bench.shape(LLAMA_8B), bench.tokens(tokens)
    ids = prompt(shape.vocab)
    torch.cuda.init()
    for index in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(index)
    start = time.perf_counter()
    runtime, stages = ours.load(
        bench, LLAMA_8B, getattr(ours, edit), context_tokens=ids.shape[1] + count, **asked
    )
    _synchronize_all()
    load_s = time.perf_counter() - start
    with runtime:
        generate = ours.generator(runtime)
        timing = time_decoding(generate, ids, count, rounds=2)
        plan = runtime.plan
        gpus = plan.memory.gpus
        peaks = [torch.cuda.max_memory_allocated(name) for name in plan.devices]
        reference = Reference.load(peers.reference_path(bench, LLAMA_8B))
        same = compare(generate, ids, timing.tokens, reference)
    figures = Figures(
        timing.token_s,
        timing.first_token_s,
        (load_s,),
        seconds={**stages, "processor": timing.processor_s},
        moved_bytes={"host-to-gpu": ours.streamed_bytes(shape, plan)},
        host_peak_bytes=machine.host_peak_bytes(),
        tokens=same,
        note="; ".join(
            [f"{plan.placement.summary()} on {', '.join(plan.devices)}"]
            + [
                f"{tier.title} {peak / 1e9:.2f} GB of {tier.needed_bytes / 1e9:.2f} planned"
                for tier, peak in zip(gpus, peaks, strict=True)
            ]
            + [f"passes {' '.join(plan.applied_specialization_pass_ids)}"]
        ),
    )
    # The GPU that came nearest to what was planned for it, or went beyond.
    pairs = [(peak, tier.needed_bytes) for peak, tier in zip(peaks, gpus, strict=True)]
    peak_bytes, planned_bytes = max(pairs, key=lambda pair: pair[0] / pair[1])
    return replace(figures, gpu_peak_bytes=peak_bytes, gpu_planned_bytes=planned_bytes)


CONTENDERS = (
    Contender("wires", "wires", run_wires, LLAMA_8B, 60, needs_gpu=True),
    Contender(
        "resident",
        "transformers, all on one GPU",
        partial(peers.run_resident, shape=LLAMA_8B, tokens=33),
        LLAMA_8B,
        needs_gpu=True,
    ),
    Contender(
        "alone-raw",
        "one GPU, from host, raw",
        partial(run_ours, tokens=17, together=False, edit="raw", gpu_memory_budget="6GiB", **_HOST),
        LLAMA_8B,
        needs_gpu=True,
    ),
    Contender(
        "alone",
        "one GPU of 6 GiB, as planned",
        partial(run_ours, tokens=17, together=False, gpu_memory_budget="6GiB"),
        LLAMA_8B,
        needs_gpu=True,
    ),
    Contender(
        "together-raw",
        "all GPUs, from host, raw",
        partial(run_ours, tokens=17, together=True, edit="raw", gpu_memory_budget="6GiB", **_HOST),
        LLAMA_8B,
        needs_gpu=True,
    ),
    Contender(
        "together-packed",
        "all GPUs, from host, packed",
        partial(run_ours, tokens=17, together=True, gpu_memory_budget="6GiB", **_HOST),
        LLAMA_8B,
        needs_gpu=True,
    ),
    Contender(
        "together",
        "all GPUs of 6 GiB, as planned",
        partial(run_ours, tokens=17, together=True, gpu_memory_budget="6GiB"),
        LLAMA_8B,
        needs_gpu=True,
    ),
    Contender(
        "together-resident",
        "all GPUs of 10 GiB, nothing streams",
        partial(run_ours, tokens=33, together=True, gpu_memory_budget="10GiB"),
        LLAMA_8B,
        needs_gpu=True,
    ),
)
_ALONE = {"together-raw": "alone-raw", "together": "alone"}
_PLAN_GOAL = Goal("of_plan", 1.03, "x plan")
_GOALS = {
    "together-raw": (Goal("of_alone", 0.55, "x one GPU"),),
    "together": (Goal("of_alone", 0.55, "x one GPU"),),
}


def table(results: Results, _bench: Bench) -> str:
    """All rows that have run."""
    speeds = speeds_of(results)
    made = Table(
        "", "s/token", "first token s", "floor s", "x floor", "x one GPU", "load s",
        "peak x plan", "tokens as transformers", "goals",
    )  # fmt: skip
    notes = []
    for row in CONTENDERS:
        result = results.get(row.name)
        if result is None:
            continue
        found = result.figures
        if found is None:
            made.add(row.title, *[""] * 8, result.error[:120])
            continue
        if found.note:
            notes.append(f"{row.title}: {found.note}")
        if found.token_s is None:
            continue
        alone = figures_of(results, _ALONE.get(row.name, ""))
        floor_s = found.floor_s(speeds) if row.name.startswith("together") else None
        known = {
            "of_alone": ratio(found.token_s, alone.token_s),
            "of_plan": ratio(found.gpu_peak_bytes, found.gpu_planned_bytes),
        }
        goals = _GOALS.get(row.name, ())
        if known["of_plan"]:
            goals = (*goals, _PLAN_GOAL)
        made.add(
            row.title,
            number(found.token_s, 4),
            number(found.first_token_s),
            number(floor_s, 4),
            times(ratio(found.token_s, floor_s)),
            times(known["of_alone"]),
            number(found.load_s[-1] if found.load_s else None, 2),
            times(known["of_plan"]),
            found.tokens,
            "; ".join(goal.verdict(known[goal.figure]) for goal in goals),
        )
    return "\n".join([str(made), "", *notes])


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="weights-gpus-")
