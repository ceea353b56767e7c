"""Who holds which memory, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ollm_widgets.render.units import format_memory
from ollm_widgets.runtime.worker import ITSELF

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollm_widgets.runtime.memory import MemoryUse
    from ollm_widgets.runtime.residency.records import Resident, Waiting
    from ollm_widgets.runtime.residency.surroundings import Holder, MemoryLevel

State = Literal["idle", "busy", "demoting", "demoted", "returning", "leaving"]
_WORDS: dict[State, str] = {
    "idle": "idle",
    "busy": "in use",
    "demoting": "going to RAM",
    "demoted": "demoted",
    "returning": "coming back",
    "leaving": "leaving",
}


def held_text(use: MemoryUse) -> str:
    """Say what a runtime holds in each tier: ``"7.6 GiB GPU, 513 MiB RAM"``."""
    tiers = (
        (use.accelerator_bytes, "GPU"),
        (use.host_bytes, "RAM"),
        (use.disk_kv_bytes, "disk"),
    )
    return ", ".join(f"{format_memory(size)} {tier}" for size, tier in tiers if size)


def node_text(resident: Resident) -> str:
    """Say on which node of a cluster a runtime is: ``"on 10.0.0.2"``; empty for this machine."""
    node = resident.runtime.plan.node
    return f"on {node}" if node else ""


def state_of(resident: Resident) -> tuple[State, str]:
    """Return what a runtime is doing, and the word for it."""
    match resident.state:
        case "demoting" | "returning" | "leaving" as moving:
            return moving, _WORDS[moving]
    if any(one.running and one.caller != ITSELF for one in resident.runtime.queue):
        return "busy", "answering"
    if resident.in_use:
        return "busy", _WORDS["busy"]
    state: State = "demoted" if resident.state == "demoted" else "idle"
    return state, _WORDS[state]


def kernel_name(holder: Holder) -> str:
    """Say which kernel: ``"analysis.ipynb (another kernel, process 4321)"``."""
    return f"{holder.title} (another kernel, process {holder.pid})"


def level_text(level: MemoryLevel) -> str:
    """Say how full a memory is: ``"RAM, 2.1 GiB of 23.4 GiB used"``."""
    used = format_memory(level.total_bytes - level.free_bytes)
    return f"{place_name(level.place)}, {used} of {format_memory(level.total_bytes)} used"


def place_name(place: str) -> str:
    """Say a place as a person does: ``ram`` is RAM, ``cuda:0`` is GPU 0."""
    kind, _colon, number = place.partition(":")
    if kind == "ram":
        return "RAM"
    return f"GPU {number}".rstrip() if kind in ("cuda", "mps", "xpu") else place


def idle_text(idle_s: float) -> str:
    """Say how long ago something was used, to the minute: it is read, not watched."""
    minutes = int(idle_s // 60)
    if minutes == 0:
        return "used just now"
    return f"idle {minutes} min" if minutes < 60 else f"idle {minutes // 60} h"


def holder_text(holder: Holder) -> str:
    """Say what another kernel holds: ``"holds 7.6 GiB of GPU 0, idle 5 min"``."""
    held: dict[str, int] = {}
    for runtime in holder.runtimes:
        for place, size_bytes in runtime.held_bytes.items():
            held[place] = held.get(place, 0) + size_bytes
    where = " and ".join(
        f"{format_memory(size_bytes)} of {place_name(place)}"
        for place, size_bytes in sorted(held.items())
        if size_bytes
    )
    busy = any(runtime.state == "busy" for runtime in holder.runtimes)
    last = min((runtime.idle_s for runtime in holder.runtimes), default=0.0)
    return f"holds {where or 'no memory'}, {'in use' if busy else idle_text(last)}"


def waiting_text(waiting: Waiting, residents: Iterable[Resident]) -> str:
    """Say for whom a load waits, and why: ``"waits for a, which is answering"``."""
    doing = {one.name: state_of(one)[1] for one in residents}
    holders = [
        f"{name}, which is {doing[name]}" if doing.get(name, "idle") != "idle" else name
        for name in waiting.holders
    ]
    return f"waits for {' and '.join(holders) or 'room'}"
