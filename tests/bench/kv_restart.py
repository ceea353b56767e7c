"""A long prompt again, in a kernel that was started anew: from disk instead of computed.

    python tests/bench/kv_restart.py
    python tests/bench/kv_restart.py cold-full warm-full --tiny

Llama-3.1-8B shape, all layers on the GPU, a prompt of 32,768 tokens, one token. A cold row
computes the prompt and leaves its keys and values on disk; the warm row after it is a process of
its own that finds them. The page cache holds the files, as it does after a restart of a kernel.
Both times are of the first request of their process.
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import Any

import contender
import machine
import wires
from contender import Contender
from decoding import prompt
from figures import Bench, Figures, Results, figures_of, speeds_of
from shapes import LLAMA_8B
from table import Goal, Table, gigabytes, number, ratio, times

_CODECS = {"full": None, "int8": "int8", "int4": "int4"}
_SHARES = {"full": 1.0, "int8": 0.531, "int4": 0.297}
_GOAL = Goal("of_cold", 0.05, "of the cold prefill")


def prompt_tokens(bench: Bench) -> int:
    """Length of the prompt."""
    return 200 if bench.tiny else 8192 if bench.quick else 32768


def run(bench: Bench, *, codec: str, warm: bool) -> Figures:
    """Time the first request of this process, until its token and until it is saved."""
    import ours
    import torch

    from ollm_widgets import GenerationConfig

    folder = bench.folder / f"kv-{codec}"
    if not warm:
        shutil.rmtree(folder, ignore_errors=True)
    count = prompt_tokens(bench)
    strategy: dict[str, Any] = {"kv_cache_strategy": "tiered-write-back"}
    if _CODECS[codec]:
        strategy = {"kv_cache_strategy": "quantized-cold-tier", "kv_cache_codec": codec}
    machine.reset_gpu_peak()
    runtime, _stages = ours.load(
        bench,
        LLAMA_8B,
        context_tokens=count + 8,
        kv_cache_lifecycle="persistent",
        cache_dir=folder,
        **strategy,
    )
    ids = prompt(bench.shape(LLAMA_8B).vocab, count)
    with runtime:
        # Kernels are chosen and compiled on a prompt that shares nothing with the timed one.
        runtime.generate(torch.full((1, 70), 5), GenerationConfig(max_new_tokens=2))
        machine.synchronize()
        start = time.perf_counter()
        output = runtime.generate(ids, GenerationConfig(max_new_tokens=1))
        machine.synchronize()
        first_s = time.perf_counter() - start
        reuse = runtime._caches.reuse_of(None)
        restored = 0 if reuse is None else reuse.last.restored_tokens
        start = time.perf_counter()
        runtime.reset_kv_cache_instances()  # waits until everything is saved
        saved_s = time.perf_counter() - start
        if not warm:
            # As a restart before did: what decodes pages is compiled once on a machine.
            runtime.generate(ids, GenerationConfig(max_new_tokens=1))
        plan = runtime.plan
    moved = bench.shape(LLAMA_8B).kv_bytes(count) * _SHARES[codec] if warm else 0
    figures = Figures(
        first_token_s=first_s,
        seconds={"saved": saved_s},
        moved_bytes={"page-cache": moved, "host-to-gpu": moved} if warm else {},
        gpu_peak_bytes=machine.gpu_peak_bytes(),
        tokens=str(output[0, -1].item()),
        note=f"{restored:,} of {count:,} tokens came from disk; steps: {ours.describe(plan)}",
    )
    return ours.against_plan(figures, plan)


CONTENDERS = (
    wires.contender_for(LLAMA_8B),
    *(
        Contender(
            f"{'warm' if warm else 'cold'}-{codec}",
            f"{'again, from disk' if warm else 'computed'}, {codec}",
            partial(run, codec=codec, warm=warm),
            LLAMA_8B,
        )
        for codec in _CODECS
        for warm in (False, True)
    ),
)


def table(results: Results, bench: Bench) -> str:
    """All rows that have run."""
    speeds = speeds_of(results)
    made = Table(
        "", "first token s", "of cold", "floor s", "x floor", "saved s", "GPU peak GB", "token",
        "goals",
    )  # fmt: skip
    notes = []
    for row in CONTENDERS[1:]:
        result = results.get(row.name)
        if result is None:
            continue
        found = result.figures
        if found is None:
            made.add(row.title, *[""] * 7, result.error[:120])
            continue
        codec = row.name.partition("-")[2]
        warm = row.name.startswith("warm")
        of_cold = ratio(found.first_token_s, figures_of(results, f"cold-{codec}").first_token_s)
        made.add(
            row.title,
            number(found.first_token_s),
            f"{of_cold:.1%}" if warm and of_cold else "",
            number(found.floor_s(speeds)) if warm else "",
            times(ratio(found.first_token_s, found.floor_s(speeds))) if warm else "",
            number(found.seconds.get("saved")),
            gigabytes(found.gpu_peak_bytes),
            found.tokens,
            _GOAL.verdict(of_cold) if warm else "",
        )
        notes.append(f"{row.title}: {found.note}")
    return "\n".join([str(made), "", *notes])


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="kv-restart-")
