"""What plans say of memory and speed, against what comes true.

    python tests/bench/plan_truth.py
    python tests/bench/plan_truth.py 8b-resident moe-6gb

Shapes of Llama-3.1-8B, of a mixture of 128 experts (30 GB), and of a dense model of 6 GB, random
bfloat16 weights, by placements and contexts; without a GPU a dense model of 0.4 GB. Each plan is
made, loaded and asked in a process of its own, from speeds that `profile_machine` measured in
another one before, and without corrections from earlier answers. The page cache holds the files.
"""

from __future__ import annotations

import os
import statistics
from functools import partial
from typing import Any

import contender
import machine
import wires
from contender import Contender
from decoding import prompt, time_decoding
from figures import Bench, Figures, Results
from shapes import DENSE_6GB, DENSE_400MB, LLAMA_8B, MOE_30GB, Shape
from table import Goal, Table, gigabytes, number, ratio, times

_GOALS = {"peak": 0.05, "token": 0.15, "first": 0.25}


def run_profile(bench: Bench) -> Figures:
    """Measure the machine as a person would have it measured."""
    import time

    from ollm_widgets import profile_machine

    start = time.perf_counter()
    profile = profile_machine(bench.checkpoint(LLAMA_8B if bench.device != "cpu" else DENSE_400MB))
    return Figures(load_s=(time.perf_counter() - start,), note=str(profile))


def run_plan(bench: Bench, *, shape: Shape, prompt_tokens: int, new: int, **asked: Any) -> Figures:
    """Hold one plan against a load, a prompt and some tokens."""
    # What was observed before must not help.
    os.environ["OLLM_OBSERVE"] = "0"
    import ours

    from ollm_widgets.planning.speed.asking import predict_for

    count = min(prompt_tokens, 200) if bench.tiny else prompt_tokens
    machine.fill_page_cache(bench.checkpoint(shape))
    machine.reset_gpu_peak()
    before = machine.reset_host_peak()
    runtime, stages = ours.load(bench, shape, context_tokens=count + new, **asked)
    with runtime:
        plan = runtime.plan
        generate = ours.generator(runtime)
        ids = prompt(bench.shape(shape).vocab, count)
        # Kernels are chosen in an untimed request; of two, the one that nobody disturbed.
        timing = time_decoding(generate, ids, new, rounds=2, pick=statistics.median_low)
        predicted = predict_for(plan, prompt_tokens=count)
    gpu, ram = plan.memory.tier("gpu"), plan.memory.tier("ram")
    figures = Figures(
        timing.token_s,
        timing.first_token_s,
        (sum(stages.values()),),
        seconds={}
        if predicted is None
        else {
            "token": predicted.seconds_per_token,
            "first": predicted.time_to_first_token_s,
            "load": predicted.load_s or 0.0,
        },
        gpu_peak_bytes=machine.gpu_peak_bytes(),
        gpu_planned_bytes=None if gpu is None else gpu.needed_bytes,
        host_growth_bytes=machine.host_peak_bytes() - before,
        host_planned_bytes=None if ram is None else ram.needed_bytes,
        note=f"{ours.describe(plan)}; stages {_stages(stages)}; {predicted and predicted.why}",
    )
    return figures


def _stages(stages: dict[str, float]) -> str:
    return ", ".join(f"{stage.lower()} {seconds:.2f}" for stage, seconds in stages.items())


def _row(
    name: str,
    title: str,
    shape: Shape,
    prompt_tokens: int,
    new: int,
    *,
    needs_gpu: bool = True,
    **asked: Any,
) -> Contender:
    run = partial(run_plan, shape=shape, prompt_tokens=prompt_tokens, new=new, **asked)
    return Contender(name, title, run, shape, needs_gpu=needs_gpu)


_ON_A_GPU = (
    _row("8b-resident", "8B, all on the GPU, 64", LLAMA_8B, 64, 65),
    _row("8b-resident-2k", "8B, all on the GPU, 2k", LLAMA_8B, 2048, 65),
    _row("8b-resident-32k", "8B, all on the GPU, 32k", LLAMA_8B, 32768, 33),
    _row(
        "8b-host", "8B, all in RAM, 64", LLAMA_8B, 64, 9,
        offload_gpu_layers=0, offload_cpu_layers=32,
    ),
    _row(
        "8b-host-8k", "8B, all in RAM, 8k", LLAMA_8B, 8192, 9,
        offload_gpu_layers=0, offload_cpu_layers=32,
    ),
    _row("8b-half", "8B, half on the GPU, 64", LLAMA_8B, 64, 9, offload_gpu_layers=16),
    _row("8b-6gib-2k", "8B in 6 GiB, 2k", LLAMA_8B, 2048, 9, gpu_memory_budget="6GiB"),
    _row("8b-12gib", "8B in 12 GiB, 64", LLAMA_8B, 64, 17, gpu_memory_budget="12GiB"),
    _row(
        "8b-disk", "8B, all on disk, 64", LLAMA_8B, 64, 5,
        offload_gpu_layers=0, offload_cpu_layers=0,
    ),
    _row("3b-resident-8k", "3B, all on the GPU, 8k", DENSE_6GB, 8192, 33),
    _row("3b-3gib", "3B in 3 GiB, 512", DENSE_6GB, 512, 17, gpu_memory_budget="3GiB"),
    _row("moe-resident", "experts, all on the GPU, 64", MOE_30GB, 64, 65),
    _row("moe-resident-2k", "experts, all on the GPU, 2k", MOE_30GB, 2048, 33),
    _row("moe-6gb", "experts in 6 GB, 64", MOE_30GB, 64, 33, gpu_memory_budget="6GB"),
    _row("moe-16gb", "experts in 16 GB, 512", MOE_30GB, 512, 33, gpu_memory_budget="16GB"),
)  # fmt: skip
_ON_A_CPU = (
    _row("small-cpu", "0.4 GB, all in RAM, 64", DENSE_400MB, 64, 17, needs_gpu=False),
    _row(
        "small-cpu-1k", "0.4 GB, all in RAM, 1k", DENSE_400MB, 1024, 9,
        needs_gpu=False,
    ),
    _row(
        "small-disk", "0.4 GB in 300 MB, 64", DENSE_400MB, 64, 9,
        needs_gpu=False, cpu_memory_budget="300MB",
    ),
)  # fmt: skip
CONTENDERS = (
    wires.contender_for(LLAMA_8B if machine.has_gpu() else DENSE_400MB),
    Contender("profile", "profile", run_profile, LLAMA_8B if machine.has_gpu() else DENSE_400MB),
    *(_ON_A_GPU if machine.has_gpu() else _ON_A_CPU),
)


def table(results: Results, _bench: Bench) -> str:
    """All rows that have run."""
    made = Table(
        "", "s/token", "predicted", "of it", "first s", "predicted", "of it", "load s",
        "predicted", "GPU peak GB", "planned", "of it", "goals",
    )  # fmt: skip
    notes = []
    kept = dict.fromkeys(_GOALS, 0)
    ran = dict(kept)
    for row in CONTENDERS[1:]:
        result = results.get(row.name)
        if result is None:
            continue
        found = result.figures
        if found is None:
            made.add(row.title, *[""] * 11, result.error[:120])
            continue
        if row.name == "profile":
            notes.append(found.note)
            continue
        of = {
            "token": ratio(found.token_s, found.seconds.get("token")),
            "first": ratio(found.first_token_s, found.seconds.get("first")),
            "peak": ratio(found.gpu_peak_bytes, found.gpu_planned_bytes),
        }
        for name, share in of.items():
            ran[name] += share is not None
            kept[name] += share is not None and abs(share - 1) <= _GOALS[name]
        made.add(
            row.title,
            number(found.token_s, 4),
            number(found.seconds.get("token"), 4),
            times(of["token"]),
            number(found.first_token_s),
            number(found.seconds.get("first")),
            times(of["first"]),
            number(found.load_s[0], 2),
            number(found.seconds.get("load"), 2),
            gigabytes(found.gpu_peak_bytes),
            gigabytes(found.gpu_planned_bytes),
            times(of["peak"]),
            "; ".join(_verdict(name, share) for name, share in of.items() if share is not None),
        )
        notes.append(f"{row.title}: {found.note}")
    sums = [f"{name} {kept[name]} of {ran[name]}" for name in _GOALS if ran[name]]
    return "\n".join([str(made), f"within the goals: {', '.join(sums)}", "", *notes])


def _verdict(name: str, share: float) -> str:
    goal = Goal(name, _GOALS[name], f"off {name}")
    return goal.verdict(abs(share - 1))


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="plan-truth-")
