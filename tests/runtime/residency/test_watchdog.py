from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ollm_widgets.runtime.memory import MemoryUse
from ollm_widgets.runtime.residency import presence
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.runtime.residency.records import Demoted, Resident, RuntimeEvent, Unloaded
from ollm_widgets.runtime.residency.surroundings import HeldRuntime, MemoryLevel
from ollm_widgets.runtime.residency.upkeep import TICK_S
from ollm_widgets.runtime.residency.watchdog import PAUSE_S, Watchdog
from ollm_widgets.runtime.turns import QueuedRequest

GPU, RAM = "cuda:0", "ram"
LONG_S = 30.0  # what a test waits at most for a thread that is at work


class Model:
    """The little of a runtime that is looked at without being asked to do anything."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.queue: tuple[QueuedRequest, ...] = ()


class Shelf:
    """Keeps residents as a manager does, with what was done to them in `done`."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.options = ResidencyOptions(**{"idle_timeout_s": 0.0, "pressure": 0.0} | options)
        self.done: list[tuple[str, ...]] = []
        self.fails = False
        self.something_done = threading.Event()
        self._residents: dict[str, Resident] = {}
        self._subscribers: list[Any] = []

    def clock(self) -> float:
        return self.now

    def put(self, name: str, *, ram: int = 5, gpu: int = 0, **more: Any) -> Resident:
        resident = Resident(name, Model(name), set(), self.now, **more)  # type: ignore[arg-type]
        resident.held, resident.turn = {GPU: gpu, RAM: ram}, len(self._residents)
        resident.demotable = gpu > 0
        self._residents[name] = resident
        for subscriber in self._subscribers:
            subscriber(RuntimeEvent("loaded", name, name))
        return resident

    def residents(self) -> tuple[Resident, ...]:
        return tuple(self._residents.values())

    def subscribe(self, callback: Any) -> Any:
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def demote_if_idle(self, runtime_id: str, detail: str) -> Demoted | None:
        resident, before = self._going(runtime_id)
        if resident.in_use:
            return None
        resident.held = {RAM: sum(resident.held.values())}
        resident.state = "demoted"
        self._note("demoted", runtime_id, detail)
        return Demoted(runtime_id, runtime_id, before, _use(resident))

    def evict_if_idle(self, runtime_id: str, detail: str) -> Unloaded | None:
        resident, before = self._going(runtime_id)
        if resident.in_use:
            return None
        del self._residents[runtime_id]
        self._note("evicted", runtime_id, detail)
        return Unloaded(runtime_id, runtime_id, before, MemoryUse())

    def cancel_running(self, runtime_id: str, detail: str) -> None:
        self._note("cancelled", runtime_id, detail)

    def note_asked(self, plea: Any, freed_bytes: int) -> None:
        self._note("asked", plea.asker_title, str(freed_bytes))

    def _going(self, runtime_id: str) -> tuple[Resident, MemoryUse]:
        if self.fails:
            raise RuntimeError("the device does not answer")
        return self._residents[runtime_id], _use(self._residents[runtime_id])

    def _note(self, *what: str) -> None:
        self.done.append(what)
        self.something_done.set()


def _use(resident: Resident) -> MemoryUse:
    return MemoryUse(
        accelerator_weights_bytes=resident.held.get(GPU, 0),
        host_weights_bytes=resident.held.get(RAM, 0),
    )


class Gauge:
    """Memories as full as a test says."""

    def __init__(self) -> None:
        self.free = {GPU: 900, RAM: 900}

    def levels(self) -> dict[str, MemoryLevel]:
        return {place: MemoryLevel(place, 1000, free) for place, free in self.free.items()}


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


def watched(shelf: Shelf, gauge: Gauge, neighbours: Any = None) -> Watchdog:
    """A watchdog whose ticks the test does itself."""
    return Watchdog(shelf, gauge, neighbours, clock=shelf.clock)


# ------------------------------------------------------------------ one look after another


def test_an_idle_one_goes_to_host_memory_and_then_away(gauge: Gauge) -> None:
    shelf = Shelf(idle_timeout_s=900.0)
    shelf.put("llama", gpu=300)
    dog = watched(shelf, gauge)
    assert dog.tick() == TICK_S
    shelf.now = 899.0
    assert dog.tick() == 900.0
    shelf.now = 900.0
    assert dog.tick() == 902.0  # memory was last looked at three seconds before
    assert shelf.done == [("demoted", "llama", "unused for 15 min")]
    shelf.now = 1800.0
    dog.tick()
    assert shelf.done[1:] == [("evicted", "llama", "unused for 30 min")]
    assert dog.tick() is None


def test_a_use_begins_its_time_anew(gauge: Gauge) -> None:
    shelf = Shelf(idle_timeout_s=100.0)
    resident = shelf.put("llama")
    dog = watched(shelf, gauge)
    resident.last_used = shelf.now = 99.0
    dog.tick()
    shelf.now = 198.0
    dog.tick()
    assert shelf.done == []
    shelf.now = 199.0
    dog.tick()
    assert len(shelf.done) == 1


def test_under_pressure_one_goes_and_the_next_only_when_the_first_has_shown(gauge: Gauge) -> None:
    shelf = Shelf(pressure=0.9)
    for name in ("old", "older", "new"):
        shelf.put(name, ram=100)
    gauge.free[RAM] = 50
    dog = watched(shelf, gauge)
    dog.tick()
    # What was done is an event, and so a reason to look at once.
    assert dog.tick() == TICK_S
    assert [what[1] for what in shelf.done] == ["old"]
    shelf.now = TICK_S
    dog.tick()
    assert [what[1] for what in shelf.done] == ["old", "older"]
    gauge.free[RAM] = 250
    shelf.now = 2 * TICK_S
    dog.tick()
    assert [each.id for each in shelf.residents()] == ["new"]
    assert shelf.done[0] == ("evicted", "old", "RAM was 95 % full")


def test_a_request_that_runs_too_long_is_cancelled(gauge: Gauge) -> None:
    shelf = Shelf(busy_timeout_s=60.0)
    resident = shelf.put("llama", busy=True)
    running = QueuedRequest("chat", True, 1.0, 0, ran_s=59.0)
    resident.runtime.queue = (running, QueuedRequest("other", False, 90.0, 1))  # type: ignore[misc]
    dog = watched(shelf, gauge)
    assert dog.tick() == 1.0
    assert shelf.done == []
    resident.runtime.queue = (QueuedRequest("chat", True, 1.0, 0, ran_s=60.0),)  # type: ignore[misc]
    dog.tick()
    assert shelf.done == [("cancelled", "llama", "ran longer than 1 min")]
    shelf.now = 1.0
    resident.runtime.queue = (QueuedRequest("chat", True, 1.0, 0, ran_s=61.0),)  # type: ignore[misc]
    dog.tick()
    assert len(shelf.done) == 1, "it was told once, and is about to end"
    shelf.now = 62.0
    resident.runtime.queue = (QueuedRequest("next", True, 1.0, 0, ran_s=60.5),)  # type: ignore[misc]
    dog.tick()
    assert len(shelf.done) == 2, "the next one has its own time"


def test_one_that_fails_is_left_alone_for_a_while_and_the_others_go(gauge: Gauge) -> None:
    shelf = Shelf(idle_timeout_s=10.0)
    shelf.put("broken")
    dog = watched(shelf, gauge)
    shelf.now, shelf.fails = 10.0, True
    assert dog.tick() == 10.0 + TICK_S
    shelf.fails = False
    shelf.put("late").last_used = 0.0
    dog.tick()
    assert [what[1] for what in shelf.done] == ["late"]
    shelf.now = 10.0 + PAUSE_S
    dog.tick()
    assert [what[1] for what in shelf.done] == ["late", "broken"]


def test_one_that_came_into_use_just_now_is_not_asked_again_at_once(gauge: Gauge) -> None:
    shelf = Shelf(idle_timeout_s=10.0)
    shelf.put("llama")
    dog = watched(shelf, gauge)
    asked = []
    shelf.evict_if_idle = lambda runtime_id, detail: asked.append(runtime_id)  # type: ignore[method-assign]
    shelf.now = 10.0
    assert dog.tick() == 10.0 + TICK_S
    dog.tick()
    assert asked == ["llama"]


# ------------------------------------------------------------------ other kernels


@pytest.fixture
def kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[KernelNeighbours, KernelNeighbours]]:
    """This kernel's view of the others, and another kernel's."""
    monkeypatch.setattr(presence, "is_own", lambda key: False)
    mine, theirs = KernelNeighbours(tmp_path, "mine"), KernelNeighbours(tmp_path, "theirs.ipynb")
    yield mine, theirs
    mine.close()
    theirs.close()


def test_another_kernel_gets_what_is_idle_and_is_told_how_much(
    kernels: tuple[KernelNeighbours, KernelNeighbours], gauge: Gauge
) -> None:
    mine, theirs = kernels
    shelf = Shelf()
    shelf.put("pinned", gpu=300, pinned=True)
    shelf.put("idle", gpu=200)
    mine.publish([HeldRuntime("idle", "idle", 1.0, {GPU: 200})])
    dog = watched(shelf, gauge, mine)
    theirs.ask(GPU, 150)
    dog.tick()
    assert [what[:2] for what in shelf.done] == [("demoted", "idle"), ("asked", "theirs.ipynb")]
    assert shelf.done[1][2] == "200"
    assert mine.pleas() == ()


def test_a_request_that_cannot_be_met_is_answered_with_nothing(
    kernels: tuple[KernelNeighbours, KernelNeighbours], gauge: Gauge
) -> None:
    mine, theirs = kernels
    shelf = Shelf()
    shelf.put("busy", gpu=300, leases=1)
    mine.publish([HeldRuntime("busy", "busy", 0.0, {GPU: 300})])
    theirs.ask(GPU, 150)
    watched(shelf, gauge, mine).tick()
    assert shelf.done == [("asked", "theirs.ipynb", "0")]
    assert mine.pleas() == ()


# ------------------------------------------------------------------ its thread


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "ollm-watchdog"]


def test_the_thread_begins_with_the_first_event_and_does_what_is_due(gauge: Gauge) -> None:
    before = len(threads())
    shelf = Shelf(idle_timeout_s=10.0)
    dog = watched(shelf, gauge)
    assert len(threads()) == before
    shelf.now = 10.0
    shelf.put("late", busy=True)
    assert len(threads()) == before + 1
    shelf.residents()[0].busy = False
    shelf.residents()[0].last_used = 0.0
    dog.poke()
    assert shelf.something_done.wait(LONG_S)
    dog.close()
    assert len(threads()) == before
    assert [what[:2] for what in shelf.done] == [("evicted", "late")]


def test_closing_is_for_good(gauge: Gauge) -> None:
    before = len(threads())
    shelf = Shelf()
    dog = watched(shelf, gauge)
    dog.close()
    shelf.put("llama")
    dog.close()
    assert len(threads()) == before


def test_the_thread_survives_a_memory_that_cannot_be_read(gauge: Gauge) -> None:
    shelf = Shelf(idle_timeout_s=10.0)
    dog = watched(shelf, gauge)
    failed = threading.Event()
    works = gauge.levels

    def fails() -> dict[str, MemoryLevel]:
        gauge.levels = works  # type: ignore[method-assign]
        failed.set()
        raise RuntimeError("no such device")

    gauge.levels = fails  # type: ignore[method-assign]
    shelf.put("llama")
    assert failed.wait(LONG_S)
    shelf.now = 10.0
    dog.poke()
    assert shelf.something_done.wait(LONG_S)
    dog.close()


def test_a_forgotten_manager_is_collected_and_its_thread_ends(gauge: Gauge) -> None:
    shelf = Shelf()
    dog = Watchdog(shelf, gauge)
    shelf.put("llama")
    (thread,) = [each for each in threads() if each is dog._thread]
    del shelf, dog
    gc.collect()
    thread.join(LONG_S)
    assert not thread.is_alive()
