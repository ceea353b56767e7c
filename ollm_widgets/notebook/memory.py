"""``%ollm memory``: what is in memory, how full the memories are, and who else fills them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError, OllmError
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.tabular import Tabular
from ollm_widgets.render.units import format_memory
from ollm_widgets.session.holding import (
    held_text,
    holder_text,
    idle_text,
    kernel_name,
    level_text,
    node_text,
    state_of,
    waiting_text,
)

if TYPE_CHECKING:
    from ollm_widgets.runtime.memory import MemoryUse
    from ollm_widgets.runtime.residency.manager import RuntimeManager


@dataclass(frozen=True, slots=True)
class InMemory:
    """One runtime in memory, as it was when it was looked at.

    Parameters
    ----------
    id
        What commands take.
    word
        What it is doing.
    pinned
        Whether it stays.
    use
        What it holds.
    idle_s
        Seconds since its last use; 0 while it is in use.
    waiting
        Requests that wait for their turn.
    node
        Where it is, ``"on 10.0.0.2"``, and holds that memory; empty for this machine.
    """

    id: str
    word: str
    pinned: bool
    use: MemoryUse
    idle_s: float
    waiting: int
    node: str = ""

    @property
    def text(self) -> str:
        """Say it in one line."""
        last = idle_text(self.idle_s) if self.idle_s else ""
        queue = f"{self.waiting} waiting" if self.waiting else ""
        pinned = "pinned" if self.pinned else ""
        word = "" if self.word == "idle" else self.word
        told = (held_text(self.use), self.node, word, last, queue, pinned)
        return ", ".join(filter(None, told))


@dataclass(frozen=True, slots=True)
class MemoryListing(Tabular):
    """The runtimes of a kernel, and what is around them."""

    runtimes: tuple[InMemory, ...]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """One row a runtime."""
        return Table(
            title="In memory",
            subtitle="" if self.runtimes else "no model is loaded",
            columns=(
                Column("Model", numbers=False),
                Column("State", numbers=False),
                Column("GPU"),
                Column("RAM"),
                Column("Last used"),
                Column("Waiting"),
            ),
            rows=tuple(map(_row, self.runtimes)),
            notes=self.notes,
        )


def in_memory(manager: RuntimeManager) -> tuple[InMemory, ...]:
    """Look at what is in memory, most recently used first."""
    found = []
    for resident in manager.residents():
        runtime = resident.runtime
        try:
            use, queue = runtime.memory(), runtime.queue
        except OllmError:  # it may leave while it is looked at
            continue
        waiting = sum(not one.running for one in queue)
        _state, word = state_of(resident)
        found.append(
            InMemory(
                resident.id,
                word,
                resident.pinned,
                use,
                resident.idle_s,
                waiting,
                node_text(resident),
            )
        )
    return tuple(found)


def list_memory(manager: RuntimeManager) -> MemoryListing:
    """Look at everything that fills memory."""
    notes = [f"{one.name} {waiting_text(one, manager.residents())}." for one in manager.waiting()]
    notes += [level_text(level) for level in manager.gauge.levels().values()]
    notes += [f"{kernel_name(one)} {holder_text(one)}." for one in manager.others()]
    return MemoryListing(in_memory(manager), tuple(notes))


def runtime_id_of(manager: RuntimeManager, model: str) -> str:
    """Return the id of a loaded model, named by its id or by any reference to it.

    Raises
    ------
    ConfigError
        If it is not in memory.
    """
    ids = [resident.id for resident in manager.residents()]
    if model in ids:
        return model
    try:
        runtime = manager.get(RuntimeConfig(model))
    except OllmError:
        runtime = None
    for resident in manager.residents():
        # One on a node was asked for with a device, which a reference alone does not say.
        there = resident.elsewhere and resident.runtime.config.model_reference == model
        if there or (runtime is not None and resident.runtime is runtime):
            return resident.id
    known = f"In memory: {', '.join(ids)}." if ids else "No model is loaded."
    raise ConfigError("model", f"{model} is not in memory.", hint=known)


def _row(runtime: InMemory) -> TableRow:
    use = runtime.use
    return TableRow(
        (
            runtime.id,
            f"{runtime.word}, pinned" if runtime.pinned else runtime.word,
            format_memory(use.accelerator_bytes) if use.accelerator_bytes else "",
            format_memory(use.host_bytes) if use.host_bytes else "",
            _last_used(runtime.idle_s),
            str(runtime.waiting) if runtime.waiting else "",
        ),
        runtime.node,
    )


def _last_used(idle_s: float) -> str:
    """Say when, to the minute; 0 is in use."""
    if not idle_s:
        return "now"
    minutes = int(idle_s // 60)
    if minutes == 0:
        return "just now"
    return f"{minutes} min ago" if minutes < 60 else f"{minutes // 60} h ago"
