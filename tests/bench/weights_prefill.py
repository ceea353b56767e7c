"""A prompt of 32,768 tokens: layers that stream beside layers that stay.

    python tests/bench/weights_prefill.py
    python tests/bench/weights_prefill.py resident ours-streamed

Llama-3.1-8B shape; the time until the first token. What streams has 5 GB of GPU beside its KV
cache (4.3 GB); transformers and ours with all layers on the GPU have no budget.
"""

from __future__ import annotations

import dataclasses
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import contender
import machine
import peers
import wires
from contender import Contender
from decoding import Generate, Reference, compare, prompt, refer, time_decoding
from figures import Bench, Figures, Results, figures_of, speeds_of
from shapes import LLAMA_8B
from table import Goal, Table, gigabytes, number, ratio, times

_BESIDE_KV_BYTES = 5 * 10**9
_TOY_BESIDE_BYTES = 1_500_000
_AFTER = 4  # tokens compared with the reference's
_ROUNDS = 2


def prompt_tokens(bench: Bench) -> int:
    """Length of the prompt."""
    return 256 if bench.tiny else 8192 if bench.quick else 32768


def run_resident(bench: Bench) -> Figures:
    """Run transformers with the whole model on the device."""
    machine.reset_gpu_peak()
    model = peers.from_pretrained(bench.checkpoint(LLAMA_8B), bench.device)
    ids = prompt(bench.shape(LLAMA_8B).vocab, prompt_tokens(bench))
    figures, _tokens = _timed(bench, peers.generator(model, bench.device), 0.0)
    refer(model, ids, _AFTER).save(_reference_path(bench))
    return figures


def run_ours(bench: Bench, *, streamed: bool, edit: str = "as_planned") -> Figures:
    """Run our runtime, within the budget or without."""
    import ours

    machine.reset_gpu_peak()
    shape = bench.shape(LLAMA_8B)
    count = prompt_tokens(bench)
    context_tokens = count + _AFTER
    asked: dict[str, Any] = {}
    if streamed:
        beside_bytes = _TOY_BESIDE_BYTES if bench.tiny else _BESIDE_KV_BYTES
        asked["gpu_memory_budget"] = shape.kv_bytes(context_tokens) + beside_bytes
    runtime, _stages = ours.load(
        bench, LLAMA_8B, getattr(ours, edit), context_tokens=context_tokens, **asked
    )
    with runtime:
        plan = runtime.plan
        generate = ours.generator(runtime)
        figures, tokens = _timed(bench, generate, ours.streamed_bytes(shape, plan))
        reference = Reference.load(_reference_path(bench))
        same = compare(generate, prompt(shape.vocab, count), tokens, reference, restarts=1)
    figures = dataclasses.replace(figures, tokens=same, note=ours.describe(plan))
    return ours.against_plan(figures, plan)


def _timed(bench: Bench, generate: Generate, streamed_bytes: float) -> tuple[Figures, list[int]]:
    ids = prompt(bench.shape(LLAMA_8B).vocab, prompt_tokens(bench))
    timings = [time_decoding(generate, ids, _AFTER, warm=False) for _ in range(1 + _ROUNDS)]
    first_s = [each.first_token_s for each in timings]
    return Figures(
        first_token_s=statistics.median(first_s[1:]),
        token_s=timings[-1].token_s,
        seconds={"first prompt": first_s[0]},
        moved_bytes={"host-to-gpu": streamed_bytes} if streamed_bytes else {},
        gpu_peak_bytes=machine.gpu_peak_bytes(),
        host_peak_bytes=machine.host_peak_bytes(),
    ), timings[-1].tokens


def _reference_path(bench: Bench) -> Path:
    return bench.folder / f"reference-prompt-{prompt_tokens(bench)}.json"


CONTENDERS = (
    wires.contender_for(LLAMA_8B),
    Contender("resident", "transformers, all on GPU", run_resident, LLAMA_8B),
    Contender("ours-resident", "ours, all on GPU", partial(run_ours, streamed=False), LLAMA_8B),
    Contender("ours-streamed", "ours, 5 GB beside KV", partial(run_ours, streamed=True), LLAMA_8B),
    Contender(
        "ours-streamed-raw",
        "ours, 5 GB beside KV, raw",
        partial(run_ours, streamed=True, edit="raw"),
        LLAMA_8B,
    ),
)
_GOALS = (
    Goal("of_resident", 1.25, "x resident"),
    Goal("of_budget", 1.0, "x budget"),
    Goal("of_plan", 1.03, "x plan"),
)


def table(results: Results, bench: Bench) -> str:
    """All rows that have run."""
    speeds = speeds_of(results)
    resident_s = figures_of(results, "resident").first_token_s
    ours_s = figures_of(results, "ours-resident").first_token_s
    made = Table(
        "", "prompt s", "first prompt s", "x transformers resident", "x ours resident",
        "weights over wire s", "then s/token", "GPU peak GB", "plan GB", "budget GB", "tokens",
        "goals",
    )  # fmt: skip
    notes = []
    for row in CONTENDERS[1:]:
        result = results.get(row.name)
        if result is None:
            continue
        found = result.figures
        if found is None:
            made.add(row.title, *[""] * 10, result.error[:120])
            continue
        known = {
            "of_resident": ratio(found.first_token_s, resident_s),
            "of_budget": ratio(found.gpu_peak_bytes, found.gpu_budget_bytes),
            "of_plan": ratio(found.gpu_peak_bytes, found.gpu_planned_bytes),
        }
        goals = _GOALS if row.name.startswith("ours-streamed") else ()
        made.add(
            row.title,
            number(found.first_token_s),
            number(found.seconds.get("first prompt")),
            times(known["of_resident"]),
            times(ratio(found.first_token_s, ours_s)),
            number(found.floor_s(speeds)),
            number(found.token_s, 4),
            gigabytes(found.gpu_peak_bytes),
            gigabytes(found.gpu_planned_bytes),
            gigabytes(found.gpu_budget_bytes),
            found.tokens,
            "; ".join(goal.verdict(known[goal.figure]) for goal in goals),
        )
        if found.note:
            notes.append(f"{row.title}: {found.note}")
    return "\n".join([str(made), "", *notes])


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="weights-prefill-")
