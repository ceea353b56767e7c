"""What happened to runtimes in memory, in sentences with bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.render.units import format_memory
from ollm_widgets.runtime.residency.wording import because

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollm_widgets.runtime.residency.records import MemoryChange, RuntimeEvent


_FOR = " for "


def freed_text(change: MemoryChange) -> str:
    """Say what was given back: ``"7.6 GiB of the GPU and 513 MiB of RAM freed"``."""
    if change.node:
        return f"given up on {change.node}, where it leaves unless others use it"
    places = ((change.freed_accelerator_bytes, "the GPU"), (change.freed_host_bytes, "RAM"))
    parts = [f"{format_memory(size)} of {place}" for size, place in places if size > 0]
    return f"{' and '.join(parts)} freed" if parts else "it held no memory"


def moved_text(change: MemoryChange) -> str:
    """Say what changed its place: ``"257 MiB from the GPU to RAM"``."""
    size_bytes = change.freed_accelerator_bytes
    if size_bytes < 0:
        return f"{format_memory(-size_bytes)} from RAM to the GPU"
    return f"{format_memory(size_bytes)} from the GPU to RAM"


def effect_text(event: RuntimeEvent) -> str:  # noqa: PLR0911, PLR0912  (one case a kind)
    """Say what an event changed for a person who looks at the shelf; empty for what is passing."""
    name, detail, change = _who(event), event.detail, event.change
    match event.kind:
        case "loaded":
            return f"Loaded {name}."
        case "failed" if event.runtime_id:
            return f"{name}: {detail}"
        case "failed":
            return f"{name} could not be loaded: {detail}"
        case "waiting":
            return f"{name} {detail[:1].lower()}{detail[1:]}" if detail else f"{name} waits."
        case "pinned":
            return f"Pinned {name}: it stays in memory."
        case "unpinned":
            return f"Unpinned {name}: it may leave memory again."
        case "demoted":
            return f"Demoted {name}{because(detail)}{_with(moved_text, change)}."
        case "returned":
            return f"{name} came back{_with(moved_text, change)}."
        case "unloaded":
            return f"Unloaded {name}{_with(freed_text, change)}."
        case "evicted":
            return f"Evicted {name}{because(detail)}{_with(freed_text, change)}."
        case "cancelled" if not event.runtime_id:
            return f"Loading {name} was cancelled."
        case "cancelled":
            return f"Stopped an answer of {name}{because(detail)}."
        case "asked":
            return detail
        case _:
            return ""


def made_room(event: RuntimeEvent) -> bool:
    """Whether somebody left, or went to host memory, so that another could come."""
    return event.kind in ("evicted", "demoted") and event.detail.startswith("For ")


def departure_text(event: RuntimeEvent) -> str:
    """Say how a runtime left memory, to who talked to it."""
    if event.kind != "evicted":
        return f"{_who(event)} was unloaded."
    why = because(event.detail)
    room = " to make room" if why.startswith(_FOR) else ""
    return f"{_who(event)} left memory{room}{why}."


def _who(event: RuntimeEvent) -> str:
    """The id, which tells two runtimes of one model apart; a load has none yet."""
    return event.runtime_id or event.name


def _with(text: Callable[[MemoryChange], str], change: MemoryChange | None) -> str:
    return f": {text(change)}" if change is not None else ""
