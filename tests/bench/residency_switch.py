"""Two models of 16 GB take turns on one GPU: how long until the other one answers.

    python tests/bench/residency_switch.py
    python tests/bench/residency_switch.py ours transformers-switch

Llama-3.1-8B shape, twice, both in host memory all the while. The floor is the copy of one model's
bytes from page-locked host memory, in the same process. Without a GPU the script only shows that
it works: a CPU stands for one.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import contender
import machine
import ours
import peers
import wires
from contender import Contender
from decoding import prompt
from figures import Bench, Figures, Results
from shapes import LLAMA_8B
from table import Goal, Table, number, ratio, times

from ollm_widgets import GenerationConfig

if TYPE_CHECKING:
    import torch

_CONTEXT_TOKENS = 1024
_SWITCHES = 6
_SLOW_SWITCHES = 2
_BLOCK_BYTES = 1 << 30
_ONE = GenerationConfig(max_new_tokens=1)
_STAGES = ("leave", "return", "first token")

# Seconds of each stage of one switch.
Stages = Mapping[str, float]


def run_ours(bench: Bench) -> Figures:
    """Demote one runtime, restore the other, ask it for a token."""
    if bench.device == "cpu":
        _let_a_cpu_be_left()
    ids = prompt(bench.shape(LLAMA_8B).vocab)
    machine.reset_host_peak()
    first, _stages = ours.load(bench, LLAMA_8B, context_tokens=_CONTEXT_TOKENS)
    first.generate(ids, _ONE)
    leave_s = _seconds(first.demote)
    second, _stages = ours.load(bench, LLAMA_8B, context_tokens=_CONTEXT_TOKENS)
    second.generate(ids, _ONE)
    with first, second:
        switches = []
        here, away = second, first
        for turn in range(_SWITCHES + 1):
            asked = ids.roll(turn + 1)
            switches.append(
                {
                    "leave": _seconds(here.demote),
                    "return": _seconds(away.restore),
                    "first token": _seconds(lambda one=away, ids=asked: one.generate(ids, _ONE)),
                }
            )
            here, away = away, here
        held = here.memory().host_copy_bytes + away.memory().host_weights_bytes
    return _figures(
        bench,
        switches[1:],
        first=switches[0],
        note=f"first way out {leave_s:.3f} s, {held / 1e9:.1f} GB page-locked for both",
    )


def run_transformers_switch(bench: Bench) -> Figures:
    """Move one model to host memory, the other to the device, ask it for a token."""
    ids = prompt(bench.shape(LLAMA_8B).vocab)
    away = peers.from_pretrained(bench.checkpoint(LLAMA_8B), "cpu")
    here = peers.from_pretrained(bench.checkpoint(LLAMA_8B), bench.device)
    peers.generator(here, bench.device)(ids, 1)
    switches = []
    for turn in range(_SLOW_SWITCHES):
        asked = ids.roll(turn + 1)
        leave_s = _seconds(lambda model=here: _moved(model, "cpu"))
        return_s = _seconds(lambda model=away: _moved(model, bench.device))
        answer = peers.generator(away, bench.device)
        token_s = _seconds(lambda answer=answer, ids=asked: answer(ids, 1))
        switches.append({"leave": leave_s, "return": return_s, "first token": token_s})
        here, away = away, here
    return _figures(bench, switches[1:], first=switches[0], note="pageable host memory")


def run_transformers_reload(bench: Bench) -> Figures:
    """Let one model go, load the other from the page cache, ask it for a token."""
    ids = prompt(bench.shape(LLAMA_8B).vocab)
    checkpoint = bench.checkpoint(LLAMA_8B)
    machine.fill_page_cache(checkpoint)
    held: list[Any] = [peers.from_pretrained(checkpoint, bench.device)]
    peers.generator(held[0], bench.device)(ids, 1)
    switches = []

    def leave() -> None:
        held.clear()
        gc.collect()
        machine.release_gpu()

    def load() -> None:
        held.append(peers.from_pretrained(checkpoint, bench.device))

    for turn in range(_SLOW_SWITCHES):
        asked = ids.roll(turn + 1)
        leave_s, load_s = _seconds(leave), _seconds(load)
        answer = peers.generator(held[0], bench.device)
        token_s = _seconds(lambda answer=answer, ids=asked: answer(ids, 1))
        switches.append({"leave": leave_s, "return": load_s, "first token": token_s})
    return _figures(bench, switches[1:], first=switches[0], note="page cache warm")


def _moved(model: torch.nn.Module, device: str) -> None:
    import torch

    torch.nn.Module.to(model, device)
    machine.release_gpu()


def _let_a_cpu_be_left() -> None:
    from ollm_widgets.runtime.demotion import Demotion

    setattr(Demotion, "possible", True)  # noqa: B010 - it is a property of the class


def _seconds(work: Callable[[], object]) -> float:
    machine.synchronize()
    start = time.perf_counter()
    work()
    machine.synchronize()
    return time.perf_counter() - start


def _figures(bench: Bench, switches: list[Stages], *, first: Stages, note: str) -> Figures:
    """The median of each stage, and the floor of the way back."""
    seconds = {name: statistics.median(each[name] for each in switches) for name in _STAGES}
    size = bench.shape(LLAMA_8B).total_bytes
    return Figures(
        load_s=(sum(first.values()), *(sum(each.values()) for each in switches)),
        seconds={**seconds, "floor": _copy_s(bench, size)},
        host_peak_bytes=machine.host_peak_bytes(),
        note=f"{note}; the first switch "
        + ", ".join(f"{name} {first[name]:.3f} s" for name in _STAGES),
    )


def _copy_s(bench: Bench, size_bytes: int) -> float:
    """Seconds that so many bytes take from page-locked memory to the device, at best."""
    import torch

    on_gpu = bench.device != "cpu"
    block_bytes = min(_BLOCK_BYTES, size_bytes)
    host = torch.ones(block_bytes, dtype=torch.uint8, pin_memory=on_gpu)
    device = torch.empty(block_bytes, dtype=torch.uint8, device=bench.device)

    def copy() -> None:
        for _ in range(size_bytes // block_bytes):
            device.copy_(host, non_blocking=on_gpu)

    best = min(_seconds(copy) for _ in range(3))
    return best * size_bytes / (size_bytes // block_bytes * block_bytes)


CONTENDERS = (
    wires.contender_for(LLAMA_8B),
    Contender("ours", "ours, demote and restore", run_ours, LLAMA_8B, 150, needs_gpu=True),
    Contender(
        "transformers-switch",
        'transformers, to("cpu") and to("cuda")',
        run_transformers_switch,
        LLAMA_8B,
        200,
        needs_gpu=True,
    ),
    Contender(
        "transformers-reload",
        "transformers, loaded again",
        run_transformers_reload,
        LLAMA_8B,
        150,
        needs_gpu=True,
    ),
)
_GOAL = Goal("return", 1.5, "x floor until back")


def table(results: Results, _bench: Bench) -> str:
    """All rows that have run; a return counts until the next step can be launched."""
    made = Table(
        "", "leave s", "return s", "first token s", "switch s", "first switch s", "floor s",
        "return x floor", "switch x floor", "goals",
    )  # fmt: skip
    notes = []
    for row in CONTENDERS[1:]:
        result = results.get(row.name)
        if result is None:
            continue
        found = result.figures
        if found is None:
            made.add(row.title, *[""] * 8, result.error[:120])
            continue
        floor_s = found.seconds["floor"]
        switch_s = statistics.median(found.load_s[1:])
        back = ratio(found.seconds["return"], floor_s)
        made.add(
            row.title,
            *(number(found.seconds[name]) for name in _STAGES),
            number(switch_s),
            number(found.load_s[0]),
            number(floor_s),
            times(back),
            times(ratio(switch_s, floor_s)),
            _GOAL.verdict(back) if row.name == "ours" else "",
        )
        notes.append(f"{row.title}: {found.note}")
    return "\n".join([str(made), "", *notes])


if __name__ == "__main__":
    contender.main(__doc__, CONTENDERS, table, prefix="residency-switch-")
