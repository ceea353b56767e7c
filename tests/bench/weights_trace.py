"""What tracing costs, and what it sees: decoding with and without a trace in turns.

    python tests/bench/weights_trace.py
    python tests/bench/weights_trace.py resident --results results.jsonl

Llama-3.1-8B shape, batch 1, a prompt of 64 tokens, greedy; all on the GPU, and from host memory,
packed. `s/token` is (t(n) - t(1)) / (n - 1). Rounds without and with a trace follow each other,
and their order turns round after round; each figure is the median of its rounds, and `by round`
that of the ratios of neighbours. The first trace captures the step once more, which is timed
apart. The last row records as many steps as can be read, to see what the others are spared.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import contender
import machine
from contender import Contender
from decoding import prompt, time_decoding
from figures import Bench, Figures, Results
from shapes import LLAMA_8B
from table import Goal, Table, number, ratio

if TYPE_CHECKING:
    from ollm_widgets.runtime.trace import Trace

_SHARES = ("waiting for copies", "unpacking", "computing", "choosing a token")


def run(bench: Bench, tokens: int, rounds: int, *, often: bool = False, **asked: Any) -> Figures:
    """Load, capture both ways, then decode in turns."""
    import ours

    from ollm_widgets.weights import trace as recording

    if often:
        recording._MOMENT_S = 1e-12
    count = bench.tokens(tokens)
    ids = prompt(bench.shape(LLAMA_8B).vocab)
    context_tokens = ids.shape[1] + count
    runtime, _stages = ours.load(bench, LLAMA_8B, context_tokens=context_tokens, **asked)
    with runtime:
        generate = ours.generator(runtime)

        def pace(*, traced: bool) -> tuple[float, Trace | None]:
            if not traced:
                return time_decoding(generate, ids, count, warm=False).token_s, None
            with runtime.trace() as trace:
                found = time_decoding(generate, ids, count, warm=False).token_s
            return found, trace

        def seconds_of(what: Any) -> float:
            machine.synchronize()
            start = time.perf_counter()
            what()
            machine.synchronize()
            return time.perf_counter() - start

        def traced_answer() -> None:
            with runtime.trace():
                generate(ids, 4)

        generate(ids, 4)
        free_bytes = _free_bytes()
        first_s = seconds_of(traced_answer)
        again_s = seconds_of(traced_answer)
        graph_bytes = free_bytes - _free_bytes()
        plain: list[float] = []
        found: list[float] = []
        trace = None
        for number_of_round in range(rounds):
            for traced in (False, True) if number_of_round % 2 == 0 else (True, False):
                token_s, seen = pace(traced=traced)
                (found if traced else plain).append(token_s)
                trace = seen or trace
    ratios = [on / off for on, off in zip(found, plain, strict=True)]
    return Figures(
        statistics.median(found),
        seconds={
            "untraced": statistics.median(plain),
            "by round": statistics.median(ratios),
            "capture": first_s - again_s,
            **_where_time_went(trace),
        },
        note=f"{_recorded(trace)}; {graph_bytes / 1e6:.1f} MB for the second graph",
    )


def _free_bytes() -> int:
    """Bytes that the GPU has left, graphs counted too; 0 without one."""
    import torch

    return torch.cuda.mem_get_info()[0] if machine.has_gpu() else 0


def _where_time_went(trace: Trace | None) -> dict[str, float]:
    """The parts of a recorded step, the median of each."""
    steps = [each for each in trace.passes if each.tokens == 1] if trace else []
    if not steps:
        return {}
    parts = {
        "waiting for copies": [each.waiting_s for each in steps],
        "unpacking": [sum(layer.unpack_s for layer in each.layers) for each in steps],
        "computing": [sum(layer.compute_s for layer in each.layers) for each in steps],
        "choosing a token": [each.head_s for each in steps],
        "step": [each.total_s for each in steps],
    }
    return {what: statistics.median(seconds) for what, seconds in parts.items()}


def _recorded(trace: Trace | None) -> str:
    if trace is None:
        return "no trace"
    notes = {each.note for each in trace.passes if each.note}
    steps = trace.captured_steps + trace.unrecorded_steps
    return "; ".join([f"{trace.captured_steps} of {steps} captured steps recorded", *notes])


CONTENDERS = (
    Contender(
        "resident",
        "all on GPU",
        partial(run, tokens=129, rounds=8),
        LLAMA_8B,
        120,
    ),
    Contender(
        "streamed",
        "from host, packed",
        partial(run, tokens=13, rounds=6, offload_gpu_layers=0, offload_cpu_layers=32),
        LLAMA_8B,
        150,
    ),
    Contender(
        "often",
        "all on GPU, as often as can be",
        partial(run, tokens=129, rounds=8, often=True),
        LLAMA_8B,
        120,
    ),
)
_GOAL = Goal("traced", 1.02, "x untraced")


def table(results: Results, _bench: Bench) -> str:
    """All rows that have run, with where the time of a step went."""
    made = Table(
        "", "s/token", "traced s/token", "ratio", "by round", "capture s", "step s", *_SHARES,
        "goals",
    )  # fmt: skip
    notes = []
    for row in CONTENDERS:
        result = results.get(row.name)
        if result is None:
            continue
        found = result.figures
        if found is None:
            made.add(row.title, *[""] * 10, result.error[:120])
            continue
        known = found.seconds
        cost = ratio(found.token_s, known.get("untraced"))
        made.add(
            row.title,
            number(known.get("untraced"), 5),
            number(found.token_s, 5),
            number(cost, 4),
            number(known.get("by round"), 4),
            number(known.get("capture"), 2),
            number(known.get("step"), 5),
            *(number(known.get(part), 5) for part in _SHARES),
            "" if row.name == "often" else _GOAL.verdict(cost),
        )
        notes.append(f"{row.title}: {found.note}")
    return "\n".join([str(made), "", *notes])


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="weights-trace-")
