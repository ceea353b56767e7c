"""Memory as planned against memory as measured, plan by plan, each in a process of its own.

Run it from the repository root: ``python tests/bench/plan_memory.py [--device cuda] [NAME ...]``.
Checkpoints of random weights, about 250 MB, are made below ``--folder``. Two things are measured
and held against the plan: by how much the process grew at its peak over one that has run a tiny
model already, mapped files not counted; and the bytes that the runtime holds at the end.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
from shapes import TINY, TINY_MOE, Shape, make
from table import Table

DENSE = Shape("dense-260mb", 8192, 1024, 3584, 9, 16, 4, 64)
MIXTURE = Shape("mixture-240mb", 8192, 512, 768, 6, 8, 2, 64, experts=16, active_experts=2)
_NEW_TOKENS = 4
_MOST_S = 300
_LOOK_S = 0.003


@dataclass(frozen=True, slots=True)
class Case:
    """A plan to make, load and use.

    Parameters
    ----------
    shape
        Of the checkpoint.
    asked
        Fields of the config beside model and device.
    """

    shape: Shape
    asked: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "resident": Case(DENSE, {"context_tokens": 512}),
    "resident, 2,048 tokens": Case(DENSE, {"context_tokens": 2048}),
    "resident, 4,096 tokens in chunks": Case(DENSE, {"context_tokens": 4096}),
    "resident, 16 bits": Case(DENSE, {"context_tokens": 512, "dtype": "bfloat16"}),
    "resident, transformers": Case(
        DENSE, {"context_tokens": 1024, "backend": "transformers-generic"}
    ),
    "within 360 MB": Case(DENSE, {"context_tokens": 512, "cpu_memory_budget": "360MB"}),
    "all layers from disk": Case(DENSE, {"context_tokens": 512, "offload_cpu_layers": 0}),
    "pages, 64 MB of them hot": Case(
        DENSE,
        {
            "context_tokens": 4096,
            "kv_cache_strategy": "paged",
            "kv_cache_memory_budget": "64MB",
        },
    ),
    "cold pages in 8 bits": Case(
        DENSE,
        {
            "context_tokens": 4096,
            "kv_cache_strategy": "quantized-cold-tier",
            "kv_cache_memory_budget": "16MB",
        },
    ),
    "a window of 256 tokens": Case(
        DENSE,
        {"context_tokens": 2048, "kv_cache_strategy": "sliding-window-ring-buffer"},
    ),
    "mixture, resident": Case(MIXTURE, {"context_tokens": 512}),
    "mixture, within 300 MB": Case(MIXTURE, {"context_tokens": 512, "cpu_memory_budget": "300MB"}),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of one plan.

    Parameters
    ----------
    planned, peak
        Of the device that computes: the plan's sum, and the process's growth at its peak.
    planned_held, held
        Weights, buffers and keys and values: as planned, and as the runtime counts them.
    """

    planned: int
    peak: int
    planned_held: int
    held: int


def main() -> None:
    """Measure the cases that are named, or all, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases; all if left out")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ollm-bench")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measured = _measure(CASES[options.one], options.device, options.folder)
        print(json.dumps([measured.planned, measured.peak, measured.planned_held, measured.held]))
        return
    for case in CASES.values():
        make(case.shape, options.folder, options.device)
    for tiny in (TINY, TINY_MOE):
        make(tiny, options.folder, options.device)
    table = Table("plan", "planned MB", "peak MB", "ratio", "held: planned MB", "MB", "ratio", "")
    for name in options.names or CASES:
        one = _in_a_process(name, options.device, options.folder)
        table.add(
            name,
            f"{one.planned / 1e6:.1f}",
            f"{one.peak / 1e6:.1f}",
            f"{one.peak / one.planned:.3f}",
            f"{one.planned_held / 1e6:.1f}",
            f"{one.held / 1e6:.1f}",
            f"{one.held / one.planned_held:.3f}",
            "" if 0.9 <= one.peak / one.planned <= 1.1 else "beyond 10 %",
        )
    print(machine.describe())
    print(table)


def _in_a_process(name: str, device: str, folder: Path) -> Measured:
    command = [sys.executable, __file__, "--one", name, "--device", device]
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        check=True,
        capture_output=True,
        text=True,
        timeout=_MOST_S,
    )
    return Measured(*json.loads(done.stdout.splitlines()[-1]))


def _measure(case: Case, device: str, folder: Path) -> Measured:
    warm = TINY_MOE if case.shape.experts else TINY
    _use(warm, device, folder, {**case.asked, **_tiny_budgets(case.asked)})
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    machine.reset_gpu_peak()
    with _PeakWatch() as watch:
        planned, planned_held, held = _use(case.shape, device, folder, case.asked)
    peak = machine.gpu_peak_bytes() if device == "cuda" else watch.growth_bytes
    return Measured(planned, peak or 0, planned_held, held)


class _PeakWatch:
    """Looks every few milliseconds at the memory of this process that no file backs."""

    def __init__(self) -> None:
        self._before = self._most = _own_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def growth_bytes(self) -> int:
        """By how much it grew at its peak."""
        return self._most - self._before

    def __enter__(self) -> _PeakWatch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._most = max(self._most, _own_bytes())


def _own_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("This system does not say what memory no file backs.")


def _tiny_budgets(asked: dict[str, Any]) -> dict[str, Any]:
    """Leave a tiny model the ways of the other: it streams where that does."""
    tiny: dict[str, Any] = {}
    if "cpu_memory_budget" in asked:
        tiny |= {"cpu_memory_budget": None, "offload_cpu_layers": 1}
    if "kv_cache_memory_budget" in asked:
        tiny |= {"kv_cache_memory_budget": "32KiB"}
    return tiny


def _use(shape: Shape, device: str, folder: Path, asked: dict[str, Any]) -> tuple[int, int, int]:
    """Load, answer a prompt that fills the context; planned bytes, those held, and held ones."""
    import torch

    from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeLoader

    config = RuntimeConfig(
        make(shape, folder, device), device=device, **{"dtype": "float32", **asked}
    )
    tokens = asked["context_tokens"] - _NEW_TOKENS
    ids = torch.randint(0, shape.vocab, (1, tokens), generator=torch.Generator().manual_seed(0))
    with RuntimeLoader().load(config) as runtime:
        runtime.generate(ids, GenerationConfig(max_new_tokens=_NEW_TOKENS))
        plan, use = runtime.plan, runtime.memory()
        tier = plan.memory.tier("gpu" if device == "cuda" else "ram")
        if tier is None:
            raise RuntimeError(f"The plan has no tier for {device}.")
        planned_held = tier.needed_bytes - tier.activations_bytes
        held = use.accelerator_bytes if device == "cuda" else use.host_bytes
    return tier.needed_bytes, planned_held, held


if __name__ == "__main__":
    main()
