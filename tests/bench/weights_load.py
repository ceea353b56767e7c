"""Loading 16 GB, page cache warm and cold, ours beside transformers, against the wires.

    python tests/bench/weights_load.py
    python tests/bench/weights_load.py ours-resident-warm transformers-warm

Llama-3.1-8B shape. Libraries are imported and the GPU is woken before; each process loads twice.
"""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Mapping
from functools import partial

import contender
import machine
import peers
import wires
from contender import Contender
from figures import Bench, Figures, Results, Wire, figures_of, speeds_of
from shapes import LLAMA_8B
from table import Goal, Table, gigabytes, number, ratio, times

_LOADS = 2

# How to let go of what was loaded, and the seconds of its stages.
Loaded = tuple[Callable[[], None], Mapping[str, float]]
_HOST = {"offload_gpu_layers": 0, "offload_cpu_layers": 32}


def run_transformers(bench: Bench, *, cold: bool) -> Figures:
    """Load with `from_pretrained` straight to the device."""

    def load_once() -> Loaded:
        held = [peers.from_pretrained(bench.checkpoint(LLAMA_8B), bench.device)]
        return held.clear, {}

    return _timed_loads(bench, load_once, cold=cold, in_host=False)


def run_ours(
    bench: Bench, *, cold: bool, edit: str = "as_planned", in_host: bool = False
) -> Figures:
    """Load with `RuntimeLoader`, to the device or to host memory."""
    import ours

    asked = _HOST if in_host else {}
    planned = None

    def load_once() -> Loaded:
        nonlocal planned
        runtime, stages = ours.load(
            bench, LLAMA_8B, getattr(ours, edit), context_tokens=128, **asked
        )
        planned = runtime.plan
        return runtime.close, stages

    figures = _timed_loads(bench, load_once, cold=cold, in_host=in_host)
    return figures if planned is None else ours.against_plan(figures, planned)


def _timed_loads(
    bench: Bench, load_once: Callable[[], Loaded], *, cold: bool, in_host: bool
) -> Figures:
    """Time some loads, each from nothing in memory."""
    import torch

    importlib.import_module("transformers.models.llama.modeling_llama")

    torch.zeros(1, device=bench.device)
    checkpoint = bench.checkpoint(LLAMA_8B)
    if not cold:
        machine.fill_page_cache(checkpoint)
    machine.reset_gpu_peak()
    before = machine.reset_host_peak()
    seconds: list[float] = []
    stages: Mapping[str, float] = {}
    for _ in range(_LOADS):
        if cold:
            machine.drop_page_cache(checkpoint)
        start = time.perf_counter()
        release, stages = load_once()
        machine.synchronize()
        seconds.append(time.perf_counter() - start)
        release()
        gc.collect()
        machine.release_gpu()
    size = bench.shape(LLAMA_8B).total_bytes
    moved: dict[Wire, float] = {"disk" if cold else "page-cache": size}
    if bench.device != "cpu" and not in_host:
        moved["host-to-gpu"] = size
    host = machine.host_peak_bytes()
    return Figures(
        load_s=tuple(seconds),
        seconds=stages,
        moved_bytes=moved,
        gpu_peak_bytes=machine.gpu_peak_bytes(),
        host_peak_bytes=host,
        host_growth_bytes=host - before,
        note=", ".join(f"{stage.lower()} {each_s:.3f} s" for stage, each_s in stages.items()),
    )


CONTENDERS = (
    wires.contender_for(LLAMA_8B),
    Contender(
        "transformers-warm",
        "transformers, to GPU, cache warm",
        partial(run_transformers, cold=False),
        LLAMA_8B,
    ),
    Contender(
        "ours-resident-warm", "ours, to GPU, cache warm", partial(run_ours, cold=False), LLAMA_8B
    ),
    Contender(
        "ours-host-raw",
        "ours, to host, raw, cache warm",
        partial(run_ours, cold=False, edit="raw", in_host=True),
        LLAMA_8B,
    ),
    Contender(
        "ours-host-packed",
        "ours, to host, packed, cache warm",
        partial(run_ours, cold=False, in_host=True),
        LLAMA_8B,
    ),
    Contender(
        "transformers-cold",
        "transformers, to GPU, cold",
        partial(run_transformers, cold=True),
        LLAMA_8B,
    ),
    Contender("ours-resident-cold", "ours, to GPU, cold", partial(run_ours, cold=True), LLAMA_8B),
)
_PEERS = {"ours-resident-warm": "transformers-warm", "ours-resident-cold": "transformers-cold"}
_GOALS = {"ours-resident-warm": Goal("in_place_s", 1.0, "s in place")}
# The capture of decode steps, which has a goal of its own in `weights_gpu.py`.
_AFTER_LOADING = "Warm up"


def table(results: Results, bench: Bench) -> str:
    """All rows that have run."""
    speeds = speeds_of(results)
    made = Table(
        "", "first load s", "load again s", "in place s", "floor s", "x floor",
        "faster than transformers", "GPU peak GB", "plan GB", "host growth GB", "goals",
    )  # fmt: skip
    notes = []
    for row in CONTENDERS[1:]:
        result = results.get(row.name)
        if result is None:
            continue
        found = result.figures
        if found is None:
            made.add(row.title, *[""] * 9, result.error[:120])
            continue
        again_s = found.load_s[-1]
        in_place_s = again_s - found.seconds.get(_AFTER_LOADING, 0.0)
        peer = figures_of(results, _PEERS.get(row.name, ""))
        goal = _GOALS.get(row.name)
        made.add(
            row.title,
            number(found.load_s[0], 2),
            number(again_s, 2),
            number(in_place_s, 2),
            number(found.floor_s(speeds), 2),
            times(ratio(again_s, found.floor_s(speeds))),
            times(ratio(peer.load_s[-1], again_s) if peer.load_s else None),
            gigabytes(found.gpu_peak_bytes),
            gigabytes(found.gpu_planned_bytes),
            gigabytes(found.host_growth_bytes),
            goal.verdict(in_place_s) if goal else "",
        )
        if found.note:
            notes.append(f"{row.title}: {found.note}")
    return "\n".join([str(made), "", *notes])


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="weights-load-")
