"""The watchdog of a real manager, with a real model, and with another process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollm_widgets import RuntimeConfig, RuntimeManager
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.runtime.residency.gauge import SystemGauge
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from ollm_widgets.runtime.residency.records import EventKind, RuntimeEvent
from ollm_widgets.runtime.residency.surroundings import RAM, MemoryLevel
from tests.runtime.residency.other_kernel import ROOT, other_kernels

LONG_S = 60.0  # what a test waits at most for what has to come


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Events:
    """What a manager has told, to be waited for."""

    def __init__(self, manager: RuntimeManager) -> None:
        self.seen: list[RuntimeEvent] = []
        self._changed = threading.Condition()
        manager.subscribe(self._note)

    def _note(self, event: RuntimeEvent) -> None:
        with self._changed:
            self.seen.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: EventKind) -> RuntimeEvent:
        with self._changed:
            assert self._changed.wait_for(lambda: self.of(kind), LONG_S), self.seen
            return self.of(kind)[0]

    def of(self, kind: EventKind) -> list[RuntimeEvent]:
        return [event for event in self.seen if event.kind == kind]


class Gauge:
    """This machine's memory, or as full as a test says."""

    def __init__(self) -> None:
        self.used_share: float | None = None

    def levels(self) -> dict[str, MemoryLevel]:
        levels = dict(SystemGauge().levels())
        if self.used_share is not None:
            total_bytes = levels[RAM].total_bytes
            free_bytes = int(total_bytes * (1 - self.used_share))
            levels[RAM] = MemoryLevel(RAM, total_bytes, free_bytes)
        return levels


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "devices"


@pytest.fixture
def manager(clock: Clock, gauge: Gauge, folder: Path) -> Iterator[RuntimeManager]:
    neighbours = KernelNeighbours(folder, "mine.ipynb")
    manager = RuntimeManager(
        idle_timeout_s=900, pressure=0.9, gauge=gauge, neighbours=neighbours, clock=clock
    )
    yield manager
    manager.close()


@pytest.fixture
def config(saved_llama: Path) -> RuntimeConfig:
    return RuntimeConfig(str(saved_llama), device="cpu")


def test_an_idle_model_leaves_at_its_time_and_says_what_it_gave_back(
    manager: RuntimeManager, clock: Clock, config: RuntimeConfig
) -> None:
    events = Events(manager)
    manager.acquire(config).release()
    clock.now += 900
    manager.configure(busy_wait_s=50)  # a reason to look
    event = events.wait_for("evicted")
    assert event.detail == "unused for 15 min"
    assert event.change is not None
    assert event.change.freed_host_bytes > 0
    assert manager.residents() == ()


def test_a_model_that_is_pinned_or_in_use_outlasts_any_time(
    manager: RuntimeManager, clock: Clock, config: RuntimeConfig
) -> None:
    events = Events(manager)
    lease = manager.acquire(config)
    pinned = manager.acquire(config.copy(dtype="float32"))
    manager.pin(pinned.id)
    pinned.release()
    clock.now += 1e6
    manager._watchdog.tick()
    assert len(manager.residents()) == 2
    manager.unpin(pinned.id)
    assert events.wait_for("evicted").runtime_id == pinned.id
    assert [each.id for each in manager.residents()] == [lease.id]
    lease.release()


def test_a_full_memory_sends_the_least_recently_used_away(
    manager: RuntimeManager, clock: Clock, gauge: Gauge, config: RuntimeConfig
) -> None:
    events = Events(manager)
    older = manager.acquire(config)
    newer = manager.acquire(config.copy(dtype="float32"))
    older.release()
    newer.release()
    gauge.used_share = 0.95
    clock.now += 10
    manager._watchdog.poke()
    event = events.wait_for("evicted")
    assert (event.runtime_id, event.detail) == (older.id, "RAM was 95 % full")
    manager._watchdog.tick()
    assert [each.id for each in manager.residents()] == [newer.id]


def test_a_request_that_runs_too_long_ends_with_what_it_has(
    manager: RuntimeManager, config: RuntimeConfig
) -> None:
    events = Events(manager)

    def wait_for_cancel(*_: object) -> None:
        events.wait_for("cancelled")

    with manager.acquire(config) as lease:
        # It takes as long as it has to, and no longer.
        lease.runtime.model.register_forward_pre_hook(wait_for_cancel)
        manager.configure(busy_timeout_s=0.001)
        prompt = [{"role": "user", "content": "w5 w9"}]
        pieces = list(lease.runtime.stream(prompt, GenerationConfig(max_new_tokens=100)))
        assert pieces[-1].finish_reason == "cancelled"
    event = events.of("cancelled")[0]
    assert (event.runtime_id, event.detail) == (lease.id, "ran longer than 1.0 ms")


def test_another_process_gets_the_memory_that_it_asks_for(
    manager: RuntimeManager, clock: Clock, folder: Path, config: RuntimeConfig
) -> None:
    events = Events(manager)
    manager.acquire(config).release()
    with other_kernels(folder, "theirs.ipynb") as (theirs,):
        manager.neighbours.publish(manager.shown())
        (seen,) = theirs.tell("others")
        assert (seen["pid"], seen["title"]) == (os.getpid(), "mine.ipynb")
        (held,) = seen["runtimes"]
        assert held["held_bytes"][RAM] > 0
        assert [each["title"] for each in theirs.tell("ask", RAM, 1000)] == ["mine.ipynb"]
        clock.now += 10
        manager._watchdog.poke()
        asked = events.wait_for("asked")
        assert asked.name == "theirs.ipynb"
        (evicted,) = events.of("evicted")
        assert evicted.detail == "theirs.ipynb asked for under 1 MiB"
        assert manager.residents() == ()
        assert manager.neighbours.pleas() == ()


def test_a_process_that_ends_with_a_model_in_memory_leaves_no_file(
    folder: Path, saved_llama: Path
) -> None:
    code = f"""
import atexit
from pathlib import Path
from ollm_widgets import RuntimeConfig, RuntimeManager
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours

manager = RuntimeManager(neighbours=KernelNeighbours(Path({str(folder)!r}), "script"))
lease = manager.acquire(RuntimeConfig({str(saved_llama)!r}, device="cpu"))
manager.neighbours.publish(manager.shown())
print(len(list(Path({str(folder)!r}).iterdir())))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert list(folder.iterdir()) == []
