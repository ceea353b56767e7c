"""A model larger than its memory budget on a CPU: ours beside accelerate's disk offload.

    python tests/bench/weights_cpu.py            # 400 MB of weights, a budget of 256 MiB
    python tests/bench/weights_cpu.py --large    # and 6 GB, a budget of 1 GiB

Runs anywhere; set OMP_NUM_THREADS to the cores that nobody else uses. Batch 1, a prompt of 64
tokens, greedy, bfloat16, page cache warm, the best of several rounds. `processor` is the time of
all threads, which other programs disturb least. `growth` is the peak of resident memory beyond
what the process had before the load, a toy model run before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import contender
import peers
import shapes
import wires
from contender import Contender
from figures import Bench, Figures, Results, figures_of, speeds_of
from shapes import DENSE_6GB, DENSE_400MB, TINY, Shape
from table import Goal, Table, gigabytes, number, ratio, times


@dataclass(frozen=True, slots=True)
class Case:
    """A checkpoint, a budget, and how many tokens are worth waiting for."""

    prefix: str
    shape: Shape
    budget: str
    tokens: int
    rounds: int
    large: bool = False


SMALL = Case("small", DENSE_400MB, "256MiB", 17, 5)
LARGE = Case("large", DENSE_6GB, "1GiB", 4, 3, large=True)


def run_resident(bench: Bench, case: Case) -> Figures:
    """Run transformers with everything in memory; its tokens are the reference."""
    _run_toy(bench)
    return peers.run_resident(bench, case.shape, case.tokens, rounds=case.rounds)


def run_accelerate(bench: Bench, case: Case) -> Figures:
    """Run accelerate with as much memory as ours, the rest on disk."""
    _run_toy(bench)
    return peers.run_accelerate(
        bench, case.shape, case.tokens, case.budget, disk=True, rounds=case.rounds
    )


def run_ours(bench: Bench, case: Case) -> Figures:
    """Run our runtime within the budget."""
    import ours

    _run_toy(bench)
    return ours.run(
        bench,
        case.shape,
        case.tokens,
        rounds=case.rounds,
        pick=min,
        cpu_memory_budget=case.budget,
    )


def run_traced(bench: Bench, case: Case) -> Figures:
    """See where the time goes, and what seeing costs."""
    import ours

    return ours.run_traced(bench, case.shape, case.tokens, rounds=5, cpu_memory_budget=case.budget)


def _run_toy(bench: Bench) -> None:
    """Load and run a toy, so that code and its buffers are in memory before counting begins."""
    import ours

    shapes.make(TINY, bench.folder, "cpu")
    toy = Bench(bench.folder, tiny=True, cpu_only=True)
    peers.run_accelerate(toy, TINY, 3, "", disk=True)
    ours.run(toy, TINY, 3, cpu_memory_budget="")


def _contenders(case: Case) -> tuple[Contender, ...]:
    def one(name: str, title: str, run: Callable[..., Figures], limit_s: int) -> Contender:
        return Contender(
            f"{case.prefix}-{name}",
            f"{title}, {case.shape.total_bytes / 1e9:.1f} GB",
            partial(run, case=case),
            case.shape,
            limit_s,
            large=case.large,
        )

    return (
        one("resident", "transformers, all in memory", run_resident, 150),
        one("accelerate", f"accelerate, disk offload, {case.budget}", run_accelerate, 150),
        one("ours", f"ours, {case.budget}", run_ours, 150),
        *(() if case.large else (one("traced", "ours, traced", run_traced, 150),)),
    )


CONTENDERS = (wires.contender_for(DENSE_400MB), *_contenders(SMALL), *_contenders(LARGE))
_GOALS = {
    "ours": (
        Goal("speedup", 1.0, "x accelerate", at_least=True),
        Goal("of_budget", 1.2, "x budget"),
    ),
    "traced": (Goal("traced", 1.02, "x untraced"),),
}


def table(results: Results, bench: Bench) -> str:
    """All rows that have run."""
    speeds = speeds_of(results)
    lines = [f"{wire}: {speed / 1e9:.2f} GB/s" for wire, speed in speeds.items()]
    made = Table(
        "", "s/token", "processor s/token", "first token s", "load s", "read floor s", "x floor",
        "faster than accelerate", "growth GB", "plan GB", "budget GB", "tokens", "goals",
    )  # fmt: skip
    notes = []
    for row in CONTENDERS[1:]:
        result = results.get(row.name)
        if result is None:
            continue
        found = result.figures
        if found is None:
            made.add(row.title, *[""] * 11, result.error[:120])
            continue
        prefix, _, kind = row.name.partition("-")
        peer = figures_of(results, f"{prefix}-accelerate")
        known = {
            "speedup": ratio(peer.token_s, found.token_s),
            "of_budget": ratio(found.host_growth_bytes, found.host_budget_bytes),
            "traced": ratio(found.token_s, found.seconds.get("untraced")),
        }
        made.add(
            row.title,
            number(found.token_s, 4),
            number(found.seconds.get("processor"), 4),
            number(found.first_token_s),
            number(found.load_s[0] if found.load_s else None, 2),
            number(found.floor_s(speeds), 4),
            times(ratio(found.token_s, found.floor_s(speeds))),
            times(known["speedup"]),
            gigabytes(found.host_growth_bytes),
            gigabytes(found.host_planned_bytes),
            gigabytes(found.host_budget_bytes),
            found.tokens,
            "; ".join(goal.verdict(known[goal.figure]) for goal in _GOALS.get(kind, ())),
        )
        if found.note:
            notes.append(f"{row.title}: {found.note}")
    return "\n".join([*lines, "", str(made), "", *notes])


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="weights-cpu-", cpu_only=True)
