"""How soon and how fast a model that fits decodes, ours beside transformers eager and compiled.

    python tests/bench/weights_resident.py
    python tests/bench/weights_resident.py ours --results results.jsonl

Llama-3.1-8B shape, batch 1, a prompt of 64 tokens, greedy. Each token is stamped as it comes:
`up to speed` is the time from the first request after the load until 16 tokens in a row came at
125 a second, the load's own warm-up added; `steady` is the second request's speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import contender
import machine
import peers
import wires
from contender import Contender
from decoding import prompt
from figures import Bench, Figures, Results, speeds_of
from shapes import LLAMA_8B
from table import Goal, Table, gigabytes, number, ratio, times

TOKENS = 257
_WINDOW_TOKENS = 16
_TOKENS_PER_S = 125.0

# Tokens so far, and seconds since the request began.
Stamps = Sequence[tuple[int, float]]


def run_peer(bench: Bench, **options: Any) -> Figures:
    """Run transformers' `generate` with a streamer that stamps tokens."""
    from transformers.generation.streamers import BaseStreamer

    class Stamper(BaseStreamer):
        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: Any) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            """Nothing waits for it."""

    machine.reset_gpu_peak()
    model = peers.from_pretrained(bench.checkpoint(LLAMA_8B), bench.device)
    ids = prompt(bench.shape(LLAMA_8B).vocab)

    def request(tokens: int) -> Stamps:
        stamper = Stamper()
        generate = peers.generator(model, bench.device, streamer=stamper, **options)
        start = time.perf_counter()
        generate(ids, tokens)
        machine.synchronize()
        return [(count, each - start) for count, each in enumerate(stamper.times) if count]

    return _figures(bench, request, 0.0)


def run_ours(bench: Bench) -> Figures:
    """Stream from our runtime."""
    import ours

    from ollm_widgets import GenerationConfig

    machine.reset_gpu_peak()
    ids = prompt(bench.shape(LLAMA_8B).vocab)
    text = " ".join(f"t{token}" for token in ids[0].tolist())
    context_tokens = ids.shape[1] + TOKENS
    runtime, stages = ours.load(bench, LLAMA_8B, context_tokens=context_tokens)

    def request(tokens: int) -> Stamps:
        runtime.reset_kv_cache_instances()  # the prompt is not to be reused
        start = time.perf_counter()
        pieces = runtime.stream(text, GenerationConfig(max_new_tokens=tokens))
        return [(piece.new_tokens, time.perf_counter() - start) for piece in pieces]

    with runtime:
        figures = _figures(bench, request, stages.get("Warm up", 0.0))
        return ours.against_plan(figures, runtime.plan)


def _figures(bench: Bench, request: Callable[[int], Stamps], warmed_s: float) -> Figures:
    tokens = bench.tokens(TOKENS)
    first, second = request(tokens), request(tokens)
    seconds = {"warm-up in the load": warmed_s, "first request": first[-1][1]}
    reached_s = _up_to_speed(first)
    if reached_s is not None:
        seconds["up to speed"] = reached_s + warmed_s
    (head, head_s), (tail, tail_s) = second[0], second[-1]
    return Figures(
        token_s=(tail_s - head_s) / (tail - head),
        first_token_s=head_s,
        seconds=seconds,
        moved_bytes=peers.own_memory(bench, bench.shape(LLAMA_8B)),
        gpu_peak_bytes=machine.gpu_peak_bytes(),
        host_peak_bytes=machine.host_peak_bytes(),
    )


def _up_to_speed(stamps: Stamps) -> float | None:
    """Seconds until the first window of tokens begins that comes fast enough."""
    for index, (count, start_s) in enumerate(stamps):
        for later, end_s in stamps[index:]:
            if later - count >= _WINDOW_TOKENS:
                if later - count >= _TOKENS_PER_S * (end_s - start_s):
                    return start_s
                break
    return None


CONTENDERS = (
    wires.contender_for(LLAMA_8B),
    Contender("eager", "transformers, eager", run_peer, LLAMA_8B),
    Contender("ours", "ours", run_ours, LLAMA_8B),
    Contender(
        "compiled",
        "transformers, compiled, static cache",
        partial(run_peer, cache_implementation="static"),
        LLAMA_8B,
        200,
    ),
)
_GOALS = (
    Goal("up_to_speed", 1.5, "s to 125 tokens/s"),
    Goal("tokens_per_s", 140, "tokens/s", at_least=True),
)


def table(results: Results, bench: Bench) -> str:
    """All rows that have run."""
    speeds = speeds_of(results)
    rows = {
        each.name: results[each.name].figures for each in CONTENDERS[1:] if each.name in results
    }
    eager = rows.get("eager")
    made = Table(
        "", "steady tokens/s", "s/token", "x HBM floor", "faster than eager", "first token s",
        "first request s", "up to speed s", "GPU peak GB", "plan GB", "goals",
    )  # fmt: skip
    for row in CONTENDERS[1:]:
        if row.name not in rows:
            continue
        found = rows[row.name]
        if found is None:
            made.add(row.title, *[""] * 9, results[row.name].error[:120])
            continue
        known = {
            "up_to_speed": found.seconds.get("up to speed"),
            "tokens_per_s": ratio(1.0, found.token_s),
        }
        goals = _GOALS if row.name == "ours" else ()
        made.add(
            row.title,
            number(known["tokens_per_s"], 1),
            number(found.token_s, 5),
            times(ratio(found.token_s, found.floor_s(speeds))),
            times(ratio(eager.token_s, found.token_s) if eager else None),
            number(found.first_token_s),
            number(found.seconds.get("first request"), 2),
            number(known["up_to_speed"], 2),
            gigabytes(found.gpu_peak_bytes),
            gigabytes(found.gpu_planned_bytes),
            "; ".join(goal.verdict(known[goal.figure]) for goal in goals),
        )
    return str(made)


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="weights-resident-")
