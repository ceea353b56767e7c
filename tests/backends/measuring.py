"""Loads a model in a process of its own and prints what memory it took, as JSON."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.errors import OutOfMemory


def resident_bytes(field: str = "VmRSS") -> int:
    """A figure of ``/proc/self/status``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def load(folder: Path, budget_bytes: int | None) -> LoadedRuntime:
    config = RuntimeConfig(
        folder,
        backend="optimized-native",
        device="cpu",
        dtype="bfloat16",
        cpu_memory_budget=budget_bytes,
        context_tokens=64,
    )
    return RuntimeLoader().load(config)


def answer(runtime: LoadedRuntime) -> list[int]:
    output = runtime.generate(torch.arange(3, 19)[None], GenerationConfig(max_new_tokens=4))
    ids: list[int] = output[0].tolist()
    return ids


def measure(small: Path, large: Path, budget_bytes: int | None) -> dict[str, object]:
    """Bytes before, at the peak, loaded and closed, beyond what any model needs."""
    with load(small, None) as runtime:
        answer(runtime)
    del runtime
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = resident_bytes()
    with load(large, budget_bytes) as runtime:
        ids = answer(runtime)
        loaded = resident_bytes()
        use = runtime.memory()
        tiers = runtime.plan.placement.tiers
    return {
        "peak": resident_bytes("VmHWM") - before,
        "loaded": loaded - before,
        "closed": resident_bytes() - before,
        "counted": use.host_bytes,
        "on_disk": tiers.count("disk"),
        "ids": ids,
    }


def refuse(small: Path, large: Path) -> dict[str, object]:
    """What a load says where the system gives no more memory, and what comes after."""
    import resource

    with load(small, None) as runtime:
        answer(runtime)
    before = resident_bytes("VmSize")
    held = resident_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (before + large_bytes(large) // 2, hard))
    said: dict[str, object] = {}
    try:
        load(large, None).close()
    except OutOfMemory as error:
        said = {"message": error.message, "needed": error.needed_bytes, "tier": error.tier}
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    gc.collect()
    said["left"] = resident_bytes() - held
    with load(large, None) as runtime:
        said["ids"] = answer(runtime)
    return said


def large_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    small, large, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if what == "refuse":
        print(json.dumps(refuse(small, large)))
    else:
        budget = None if what == "whole" else int(what)
        print(json.dumps(measure(small, large, budget)))
