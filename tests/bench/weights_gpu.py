"""Decoding a model larger than the GPU's budget, ours and others', against the wires.

    python tests/bench/weights_gpu.py                     # everything, as time allows
    python tests/bench/weights_gpu.py wires ours-packed   # some rows
    python tests/bench/weights_gpu.py --from results.jsonl

Llama-3.1-8B shape (16 GB) and a mixture of experts (30 GB), random bfloat16 weights made on the
spot, and the first of them with its layers in 8 bits (9 GB); batch 1, a prompt of 64 tokens,
greedy. 56 GB of disk, 73 GB with AirLLM. `s/token` is (t(n) - t(1)) / (n - 1); `floor` is what the
busiest wire needs for what must move, `raw floor` for layers as they run; `tokens` are compared
with transformers', each given transformers' tokens before it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import contender
import machine
import peers
import wires
from contender import Contender
from figures import Bench, Figures, Results, figures_of, speeds_of
from shapes import LLAMA_8B, LLAMA_8B_FP8, MOE_30GB
from table import Goal, Table, gigabytes, number, ratio, times

_BASELINES = {LLAMA_8B.name: "accelerate-cpu", MOE_30GB.name: "moe-accelerate-cpu"}


def ours(bench: Bench, shape: Any, tokens: int, edit: str = "as_planned", **asked: Any) -> Figures:
    """Run our runtime; it is imported in the contender's process only."""
    import ours as runtime

    return runtime.run(bench, shape, tokens, getattr(runtime, edit), **asked)


def ours_traced(bench: Bench, tokens: int) -> Figures:
    """See where the time goes, and what seeing costs."""
    import ours as runtime

    return runtime.run_traced(bench, LLAMA_8B, tokens, rounds=4, **_HOST)


def ours_from_disk(bench: Bench, tokens: int, *, cold: bool) -> Figures:
    """Hold no layer, read all of them for each token."""
    checkpoint = bench.checkpoint(LLAMA_8B)
    if cold:
        machine.drop_page_cache(checkpoint)
    else:
        machine.fill_page_cache(checkpoint)
    edit = "past_page_cache" if cold else "through_page_cache"
    return ours(bench, LLAMA_8B, tokens, edit, slow=cold, direct=cold, **_DISK)


_HOST = {"offload_gpu_layers": 0, "offload_cpu_layers": 32}
_HALF = {"offload_gpu_layers": 16, "offload_cpu_layers": 16}
_DISK = {"offload_gpu_layers": 0, "offload_cpu_layers": 0}

CONTENDERS = (
    wires.contender_for(LLAMA_8B),
    Contender(
        "resident",
        "transformers, all on GPU",
        partial(peers.run_resident, shape=LLAMA_8B, tokens=33),
        LLAMA_8B,
    ),
    Contender(
        "accelerate-cpu",
        "accelerate, CPU offload, 4 GiB",
        partial(peers.run_accelerate, shape=LLAMA_8B, tokens=7, budget="4GiB", disk=False),
        LLAMA_8B,
    ),
    Contender(
        "accelerate-disk",
        "accelerate, disk offload, 4 GiB",
        partial(peers.run_accelerate, shape=LLAMA_8B, tokens=4, budget="4GiB", disk=True),
        LLAMA_8B,
    ),
    Contender("airllm", "AirLLM", partial(peers.run_airllm, shape=LLAMA_8B), LLAMA_8B, 120, True),
    Contender(
        "ours-raw",
        "ours, from host, raw",
        partial(ours, shape=LLAMA_8B, tokens=17, edit="raw", **_HOST),
        LLAMA_8B,
    ),
    Contender(
        "ours-packed",
        "ours, from host, packed",
        partial(ours, shape=LLAMA_8B, tokens=17, **_HOST),
        LLAMA_8B,
    ),
    Contender(
        "ours-half",
        "ours, half on GPU, packed",
        partial(ours, shape=LLAMA_8B, tokens=17, **_HALF),
        LLAMA_8B,
    ),
    Contender(
        "ours-half-raw",
        "ours, half on GPU, raw",
        partial(ours, shape=LLAMA_8B, tokens=17, edit="raw", **_HALF),
        LLAMA_8B,
    ),
    Contender(
        "ours-fp8",
        "ours, from host, 8 bits as stored",
        partial(ours, shape=LLAMA_8B_FP8, tokens=33, **_HOST),
        LLAMA_8B_FP8,
    ),
    Contender(
        "ours-4gib",
        "ours, 4 GiB, as planned",
        partial(ours, shape=LLAMA_8B, tokens=17, gpu_memory_budget="4GiB"),
        LLAMA_8B,
    ),
    Contender(
        "ours-traced",
        "ours, from host, packed, traced",
        partial(ours_traced, tokens=9),
        LLAMA_8B,
    ),
    Contender(
        "ours-resident",
        "ours, all on GPU",
        partial(ours, shape=LLAMA_8B, tokens=129, rounds=3),
        LLAMA_8B,
    ),
    Contender(
        "ours-disk-cached",
        "ours, from page cache",
        partial(ours_from_disk, tokens=9, cold=False),
        LLAMA_8B,
    ),
    Contender(
        "ours-disk", "ours, from disk", partial(ours_from_disk, tokens=3, cold=True), LLAMA_8B, 110
    ),
    Contender(
        "compiled",
        "transformers, compiled, static cache",
        partial(peers.run_compiled, shape=LLAMA_8B, tokens=65),
        LLAMA_8B,
        150,
        True,
    ),
    Contender(
        "moe-resident",
        "MoE: transformers, all on GPU",
        partial(peers.run_resident, shape=MOE_30GB, tokens=17),
        MOE_30GB,
    ),
    Contender(
        "moe-accelerate-cpu",
        "MoE: accelerate, CPU offload, 6 GiB",
        partial(peers.run_accelerate, shape=MOE_30GB, tokens=3, budget="6GiB", disk=False),
        MOE_30GB,
        120,
    ),
    Contender(
        "ours-moe",
        "MoE: ours, 6 GB",
        partial(ours, shape=MOE_30GB, tokens=33, gpu_memory_budget="6GB"),
        MOE_30GB,
    ),
    Contender(
        "ours-moe-resident",
        "MoE: ours, all on GPU",
        partial(ours, shape=MOE_30GB, tokens=65),
        MOE_30GB,
    ),
)
GOALS: dict[str, tuple[Goal, ...]] = {
    "ours-raw": (
        Goal("floor", 1.02, "x floor"),
        Goal("speedup", 9, "x accelerate", at_least=True),
        Goal("airllm", 30, "x AirLLM", at_least=True),
    ),
    "ours-packed": (Goal("token_s", 0.195, "s/token"), Goal("raw_floor", 0.76, "x raw floor")),
    "ours-fp8": (Goal("floor", 1.02, "x floor"), Goal("raw_floor", 0.52, "x raw floor")),
    "ours-half": (Goal("floor", 1.04, "x floor"),),
    "ours-half-raw": (Goal("floor", 1.04, "x floor"),),
    "ours-4gib": (Goal("within_budget", 1.0, "x budget"),),
    "ours-traced": (Goal("traced", 1.02, "x untraced"),),
    "ours-resident": (Goal("tokens_per_s", 140, "tokens/s", at_least=True),),
    "ours-disk": (Goal("floor", 1.1, "x floor"),),
    "ours-moe": (Goal("token_s", 0.045, "s/token"), Goal("within_budget", 1.0, "x budget")),
}
_PLAN_GOAL = Goal("of_plan", 1.03, "x plan")


def table(results: Results, bench: Bench) -> str:
    """All rows that have run, the wires above them."""
    speeds = speeds_of(results)
    lines = [f"{wire}: {speed / 1e9:.2f} GB/s" for wire, speed in speeds.items()]
    made = Table(
        "", "s/token", "first token s", "floor s", "x floor", "faster than accelerate",
        "GPU peak GB", "plan GB", "host peak GB", "tokens as transformers", "goals",
    )  # fmt: skip
    notes = []
    for row in CONTENDERS[1:]:
        result = results.get(row.name)
        if result is None:
            continue
        if result.figures is None:
            made.add(row.title, *[""] * 9, result.error[:120])
            continue
        found = result.figures
        known = _quantities(row, found, results, bench)
        goals = GOALS.get(row.name, ())
        if found.gpu_peak_bytes and found.gpu_planned_bytes:
            goals = (*goals, _PLAN_GOAL)
        made.add(
            row.title,
            number(found.token_s, 4),
            number(found.first_token_s),
            number(found.floor_s(speeds), 4),
            times(known["floor"]),
            times(known["speedup"]),
            gigabytes(found.gpu_peak_bytes),
            gigabytes(found.gpu_planned_bytes),
            gigabytes(found.host_peak_bytes),
            found.tokens,
            "; ".join(goal.verdict(known[goal.figure]) for goal in goals),
        )
        if traced := known["traced"]:
            notes.append(f"{row.title}: {traced:.4f} x untraced")
        if found.note:
            notes.append(f"{row.title}: {found.note}")
    return "\n".join([*lines, "", str(made), "", *notes])


def _quantities(
    row: Contender, found: Figures, results: Results, bench: Bench
) -> dict[str, float | None]:
    """What goals are about."""

    speeds = speeds_of(results)
    baseline = figures_of(results, _BASELINES.get(row.shape.name, ""))
    all_bytes = bench.shape(row.shape).layers_bytes
    return {
        "token_s": found.token_s,
        "tokens_per_s": ratio(1.0, found.token_s),
        "floor": ratio(found.token_s, found.floor_s(speeds)),
        "raw_floor": ratio(found.token_s, ratio(all_bytes, speeds.get("host-to-gpu"))),
        "speedup": ratio(baseline.token_s, found.token_s),
        "airllm": ratio(figures_of(results, "airllm").token_s, found.token_s),
        "traced": ratio(found.token_s, found.seconds.get("untraced")),
        "of_plan": ratio(found.gpu_peak_bytes, found.gpu_planned_bytes),
        "within_budget": ratio(found.gpu_peak_bytes, found.gpu_budget_bytes),
    }


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="weights-gpu-")
