"""A machine, models and a loader that are quick to use up, and that fail when a test says so."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from ollm_widgets import (
    LoadProgress,
    ModelReference,
    RuntimeConfig,
    RuntimeLoader,
    RuntimeManager,
    RuntimePlan,
)
from ollm_widgets.errors import Cancelled, OutOfMemory, RuntimeClosedError
from ollm_widgets.planning.memory_map import MemoryMap, TierMemory
from ollm_widgets.runtime.memory import MemoryUse
from ollm_widgets.runtime.residency.surroundings import HeldRuntime, Holder, MemoryLevel, Plea

GPU, RAM = "cuda:0", "ram"
GIB = 1 << 30
Pause = Callable[..., object]


@dataclass
class SimulatedMachine:
    """Two memories, what others hold there, and every runtime that was ever made.

    Parameters
    ----------
    total
        Bytes by place.
    pause
        Gives other threads a turn, and waits for a condition.
    """

    total: dict[str, int]
    pause: Pause = lambda ready=None: None
    others: dict[str, int] = field(default_factory=lambda: {GPU: 0, RAM: 0})
    taken: dict[str, int] = field(default_factory=lambda: {GPU: 0, RAM: 0})
    runtimes: list[SimulatedRuntime] = field(default_factory=list)
    # Told by a test that holds leases and pins, so that whoever is closed can be judged.
    held: Callable[[SimulatedRuntime], bool] = lambda _runtime: False
    mistakes: list[str] = field(default_factory=list)

    def levels(self) -> Mapping[str, MemoryLevel]:
        return {
            place: MemoryLevel(place, total, max(self.free(place), 0))
            for place, total in self.total.items()
        }

    def free(self, place: str) -> int:
        return self.total[place] - self.taken[place] - self.others[place]

    def take(self, place: str, size: int) -> None:
        if size > self.free(place):
            raise OutOfMemory("No room.", tier=place, needed_bytes=size, free_bytes=0)
        self.taken[place] += size

    def give(self, place: str, size: int) -> None:
        self.taken[place] -= size
        assert self.taken[place] >= 0


class SimulatedRuntime:
    """Behaves as a `LoadedRuntime` towards a manager."""

    def __init__(self, machine: SimulatedMachine, plan: RuntimePlan, size: int, host: int) -> None:
        self.machine, self.plan, self.size, self.host = machine, plan, size, host
        self.name = plan.resolved_model.display_name
        self.model_path = plan.model_path
        self.closed = self.demoted = self.busy = False
        self.demotion_fails = self.return_fails = False
        self.keeps_host_copy, self.spare = False, 0
        self.queue: tuple[object, ...] = ()
        self._watchers: list[Callable[[bool], None]] = []
        machine.runtimes.append(self)

    @property
    def can_demote(self) -> bool:
        return not self.closed and not self.demoted

    def memory(self) -> MemoryUse:
        if self.closed:
            return MemoryUse()
        if self.demoted:
            return MemoryUse(host_weights_bytes=self.size + self.host)
        return MemoryUse(
            accelerator_weights_bytes=self.size,
            host_weights_bytes=self.host,
            host_copy_bytes=self.spare,
        )

    def watch_activity(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    def close_if_idle(self, _why: str = "") -> bool:
        self.machine.pause()
        if self.busy:
            return False
        if self.machine.held(self):
            self.machine.mistakes.append(f"{self.name} was closed under a lease")
        self.close()
        return True

    def close(self, _why: str = "") -> None:
        if self.closed:
            return
        self.machine.pause()
        self.closed = True
        self.release_host_copy()
        self.machine.give(RAM if self.demoted else GPU, self.size)
        self.machine.give(RAM, self.host)

    def demote(self, cancel: threading.Event | None = None) -> None:
        self.machine.pause()
        if self.closed:
            raise RuntimeClosedError("closed")
        if self.demoted:
            return
        if self.demotion_fails:
            raise OutOfMemory("No room.", tier=RAM, needed_bytes=self.size, free_bytes=0)
        self.machine.take(RAM, self.size - self.spare)
        self.machine.give(GPU, self.size)
        self.demoted, self.spare = True, 0

    def restore(self, progress=None, cancel=None) -> None:  # type: ignore[no-untyped-def]
        self.machine.pause()
        if self.closed:
            raise RuntimeClosedError("closed")
        if not self.demoted:
            return
        if self.return_fails:
            raise OutOfMemory("No room.", tier=GPU, needed_bytes=self.size, free_bytes=0)
        self.machine.take(GPU, self.size)
        self.spare = self.size if self.keeps_host_copy else 0
        self.machine.give(RAM, self.size - self.spare)
        self.demoted = False

    def release_host_copy(self) -> None:
        self.machine.give(RAM, self.spare)
        self.spare = 0

    def begin_request(self) -> None:
        """Begin an answer that nobody has a lease for."""
        if self.closed or self.busy:
            return
        self.busy = True
        for watcher in self._watchers:
            watcher(True)

    def end_request(self) -> None:
        if not self.busy:
            return
        self.busy = False
        for watcher in self._watchers:
            watcher(False)

    def cancel_running(self) -> bool:
        return self.busy


class SimulatedLoader:
    """Plans and loads simulated runtimes; a load goes on when the test lets it.

    Parameters
    ----------
    template
        A real plan, of which others are made.
    sizes
        Bytes of each model, by its name.
    """

    def __init__(
        self, machine: SimulatedMachine, template: RuntimePlan, sizes: Mapping[str, int]
    ) -> None:
        self.machine, self.template, self.sizes = machine, template, sizes
        # What a model needs of host memory beside the accelerator.
        self.host_sizes: dict[str, int] = {}
        self.loads: list[str] = []
        self.under_way: list[str] = []
        self.outcomes: dict[str, BaseException | None] = {}
        # The next loads of a model fail with these, in order.
        self.failures: dict[str, list[BaseException]] = {}
        self.held_back: set[str] = set()
        self.alternatives = False
        self.advised_with: Mapping[str, int] = {}

    def config(self, name: str, **fields: object) -> RuntimeConfig:
        return RuntimeConfig(f"path:/models/{name}", **fields)  # type: ignore[arg-type]

    def advice(self, _plan: RuntimePlan, more_bytes: Mapping[str, int]) -> None:
        self.advised_with = more_bytes

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        return self.plan_with(config, {})

    def plan_with(self, config: RuntimeConfig, more_bytes: Mapping[str, int]) -> RuntimePlan:
        path = Path(config.model_reference.removeprefix("path:"))
        size = self.sizes[path.name]
        free = min(self.machine.free(GPU) + more_bytes.get(GPU, 0), self.machine.total[GPU])
        total = self.machine.total[GPU]
        tier = TierMemory("gpu", "GPU", total, free, total - free, free, size, device=GPU)
        tiers = [tier]
        if path.name in self.host_sizes:
            ram = self.machine.free(RAM) + more_bytes.get(RAM, 0)
            needed = self.host_sizes[path.name]
            whole = self.machine.total[RAM]
            tiers.append(TierMemory("ram", "RAM", whole, ram, whole - ram, ram, needed))
        resolved = dataclasses.replace(
            self.template.resolved_model,
            reference=ModelReference.parse(config.model_reference),
            model_path=path,
            normalized_name=path.name,
        )
        return self.template.refine(
            resolved_model=resolved,
            config=config,
            model_path=path,
            backend_id=config.backend or "optimized-native",
            device=GPU,
            memory=MemoryMap(tuple(tiers)),
            executable=size <= free,
            reason="" if size <= free else f"It needs {size} bytes, and {free} are free.",
        )

    def other_plans(self, plan: RuntimePlan) -> tuple[RuntimePlan, ...]:
        if not self.alternatives or plan.config.backend is not None:
            return ()
        return (self.plan(plan.config.copy(backend="transformers-generic")),)

    def load(self, config, progress=None, cancel=None) -> SimulatedRuntime:  # type: ignore[no-untyped-def]
        plan = self.plan(config)
        name = plan.resolved_model.display_name
        self.loads.append(name)
        self.under_way.append(name)
        try:
            if progress is not None:
                progress(LoadProgress("Read weights", 0, self.sizes[name]))
            host = self.host_sizes.get(name, 0)
            self.machine.take(GPU, self.sizes[name])
            try:
                self.machine.pause(lambda: name not in self.held_back or cancel.is_set())
                if cancel is not None and cancel.is_set():
                    raise Cancelled("Loading was cancelled.")
                failure = self.outcomes.pop(name, None)
                if self.failures.get(name):
                    failure = self.failures[name].pop(0)
                if failure is not None:
                    raise failure
                self.machine.take(RAM, host)
                return SimulatedRuntime(self.machine, plan, self.sizes[name], host)
            except BaseException:
                self.machine.give(GPU, self.sizes[name])
                raise
        finally:
            self.under_way.remove(name)


class NoNeighbours:
    """A machine with one kernel."""

    def __init__(self) -> None:
        self.shown: list[tuple[HeldRuntime, ...]] = []

    def publish(self, runtimes) -> None:  # type: ignore[no-untyped-def]
        self.shown.append(tuple(runtimes))

    def others(self) -> tuple[Holder, ...]:
        return ()

    def ask(self, place: str, needed_bytes: int, pid: int | None = None) -> tuple[Holder, ...]:
        return ()

    def pleas(self) -> tuple[Plea, ...]:
        return ()

    def answer(self, plea: Plea, freed_bytes: int) -> None:
        raise AssertionError(plea)

    def close(self) -> None:
        self.shown.append(())


def three_models(saved: Path) -> SimulatedLoader:
    """Models of 4, 4 and 6 GiB, planned like the one in a folder, on a GPU of 10 GiB."""
    template = RuntimeLoader().plan(RuntimeConfig(f"path:{saved}", device="cpu"))
    machine = SimulatedMachine({GPU: 10 * GIB, RAM: 10 * GIB})
    return SimulatedLoader(machine, template, {"a": 4 * GIB, "b": 4 * GIB, "c": 6 * GIB})


def manager_of(models: SimulatedLoader) -> RuntimeManager:
    """A manager of a simulated machine that has it for itself."""
    return RuntimeManager(
        cast(RuntimeLoader, models), gauge=models.machine, neighbours=NoNeighbours()
    )
