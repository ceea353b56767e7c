"""Everything that may happen to a manager, in any order, one thread at a time."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import cast
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ollm_widgets import (
    OllmError,
    RuntimeConfig,
    RuntimeEvent,
    RuntimeLoader,
    RuntimeManager,
    RuntimePlan,
)
from ollm_widgets.runtime.residency import flight, manager, news, porter, shared
from ollm_widgets.runtime.residency.records import Lease
from tests.runtime.residency.conductor import Conductor, Task, conducting
from tests.runtime.residency.simulated import (
    GPU,
    RAM,
    NoNeighbours,
    SimulatedLoader,
    SimulatedMachine,
    SimulatedRuntime,
)

SIZES = {"a": 4, "b": 4, "c": 6, "d": 2}
MOVES = ("unload", "demote", "evict", "give way")
BREAKS = (RuntimeError, OSError, ValueError)
EXPECTED = (OllmError, *BREAKS)
names = st.sampled_from(sorted(SIZES))
some = st.integers(0, 9)
# How long everybody goes on before the next thing happens; nearly always long enough to settle.
turns = st.sampled_from([0, 1, 3, 10, 30, 60, 100, 200, 1000])


class Storm(RuleBasedStateMachine):
    """Callers, hands at the shelf and failures around one manager."""

    template: RuntimePlan
    chance: float

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[Task] = []
        self.cancels: dict[Task, object] = {}
        self.leases: list[Lease] = []
        self.working: list[object] = []
        self.steps = 0
        self.events: list[RuntimeEvent] = []

    @initialize(
        seed=st.integers(0, 2**32),
        limit=st.sampled_from([None, 1, 2]),
        host=some,
        others=st.booleans(),
    )
    def begin(self, seed: int, limit: int | None, host: int, others: bool) -> None:
        self.limit = limit
        modules = (flight, manager, news, porter, shared)
        self.conducted = conducting(seed, *modules)
        self.conductor: Conductor = self.conducted.__enter__()
        self.watchdog = mock.patch.object(manager, "Watchdog")
        self.watchdog.start()
        self.machine = SimulatedMachine({GPU: 10, RAM: host}, self.conductor.pause)
        self.machine.held = self.is_held
        self.loader = SimulatedLoader(self.machine, self.template, SIZES)
        self.loader.alternatives = others
        self.manager = RuntimeManager(
            cast(RuntimeLoader, self.loader),
            limit,
            busy_wait_s=1.0,
            gauge=self.machine,
            neighbours=NoNeighbours(),
            clock=self.conductor.clock,
        )
        self.manager.subscribe(self.events.append)

    def is_held(self, runtime: SimulatedRuntime) -> bool:
        return runtime in self.working or any(lease.runtime is runtime for lease in self.leases)

    # ------------------------------------------------------------------ callers

    @rule(wanted=st.lists(names, min_size=1, max_size=3), turns=turns, retry=st.booleans())
    def ask(self, wanted: list[str], turns: int, retry: bool) -> None:
        for name in wanted:
            cancel = self.conductor.threading.Event()
            call = functools.partial(
                self.manager.acquire, self.loader.config(name), None, cancel, retry=retry
            )
            task = self.conductor.spawn(call, f"ask {name}")
            self.asks.append(task)
            self.cancels[task] = cancel
        self.conductor.run(turns)

    @rule(wanted=names, turns=turns, count=st.integers(1, 3))
    def use(self, wanted: str, turns: int, count: int) -> None:
        """Somebody comes, works and goes."""
        for _ in range(count):
            self.conductor.spawn(
                functools.partial(self.quietly, functools.partial(self.use_once, wanted)), "use"
            )
        self.conductor.run(turns)

    def use_once(self, name: str) -> None:
        with self.manager.acquire(self.loader.config(name), retry=True) as lease:
            self.working.append(lease.runtime)
            self.conductor.pause()
            self.working.remove(lease.runtime)

    @rule(which=some)
    def cancel(self, which: int) -> None:
        if not self.asks:
            return
        task = self.asks[which % len(self.asks)]
        self.cancels[task].set()  # type: ignore[attr-defined]
        self.conductor.pass_time(0.2)
        assert task.done

    @rule(which=some, turns=turns, forgets=st.booleans())
    def release(self, which: int, turns: int, forgets: bool) -> None:
        if not self.leases:
            return
        lease = self.leases.pop(which % len(self.leases))
        if forgets:
            del lease  # the collector gives it back
        else:
            self.conductor.spawn(lease.release, "release")
        self.conductor.run(turns)

    # ------------------------------------------------------------------ loads

    @rule(name=names)
    def hold_back(self, name: str) -> None:
        self.loader.held_back.add(name)

    @rule(which=some, turns=turns)
    def let_go(self, which: int, turns: int) -> None:
        held = sorted(self.loader.held_back)
        if held:
            self.loader.held_back.discard(held[which % len(held)])
        self.conductor.run(turns)

    @rule(name=names, kind=st.sampled_from(BREAKS))
    def let_fail(self, name: str, kind: type[Exception]) -> None:
        self.loader.outcomes[name] = kind(f"{name} broke")

    # ------------------------------------------------------------------ hands at the shelf

    def some_resident(self, which: int) -> str | None:
        residents = self.manager.residents()
        return residents[which % len(residents)].id if residents else None

    @rule(which=some, pinned=st.booleans())
    def pin(self, which: int, pinned: bool) -> None:
        runtime_id = self.some_resident(which)
        if runtime_id is not None:
            act = self.manager.pin if pinned else self.manager.unpin
            self.try_by_hand(functools.partial(act, runtime_id))

    @rule(which=some, turns=turns, how=st.sampled_from(MOVES))
    def move(self, which: int, turns: int, how: str) -> None:
        runtime_id = self.some_resident(which)
        if runtime_id is None:
            return
        acts = {
            "unload": functools.partial(self.manager.unload, runtime_id),
            "demote": functools.partial(self.manager.demote, runtime_id),
            "evict": functools.partial(self.manager.evict_if_idle, runtime_id, "idle"),
            "give way": functools.partial(self.manager.demote_if_idle, runtime_id, "idle"),
        }
        self.conductor.spawn(functools.partial(self.quietly, acts[how]), how)
        self.conductor.run(turns)

    @rule(which=some)
    def force(self, which: int) -> None:
        runtime_id = self.some_resident(which)
        if runtime_id is not None:
            unload = functools.partial(self.manager.unload, runtime_id, force=True)
            self.try_by_hand(unload)

    def try_by_hand(self, act: object) -> None:
        self.conductor.spawn(functools.partial(self.quietly, act), "hand")
        self.conductor.run()

    @staticmethod
    def quietly(act) -> None:  # type: ignore[no-untyped-def]
        with contextlib.suppress(*EXPECTED):
            act()

    # ------------------------------------------------------------------ the world

    @rule(which=some, ends=st.booleans(), turns=turns)
    def answer(self, which: int, ends: bool, turns: int) -> None:
        """Somebody uses a runtime without a lease."""
        open_ones = [one for one in self.machine.runtimes if not one.closed]
        if open_ones:
            one = open_ones[which % len(open_ones)]
            self.conductor.spawn(one.end_request if ends else one.begin_request, "answer")
            self.conductor.run(turns)

    @rule(which=some, demotion=st.booleans(), back=st.booleans())
    def spoil(self, which: int, demotion: bool, back: bool) -> None:
        if self.machine.runtimes:
            one = self.machine.runtimes[which % len(self.machine.runtimes)]
            one.demotion_fails, one.return_fails = demotion, back

    @rule(size=st.integers(0, 6))
    def press(self, size: int) -> None:
        """Another process takes memory."""
        self.machine.others[GPU] = min(size, self.machine.total[GPU] - self.machine.taken[GPU])

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.2, 15.0]))
    def pass_time(self, seconds: float) -> None:
        self.conductor.pass_time(seconds)

    @rule()
    def settle(self) -> None:
        self.conductor.run()

    @rule(seed=st.integers(0, 2**32))
    def burst(self, seed: int) -> None:
        """Much happens at once: of all the above, what comes often comes often."""
        chance = random.Random(seed)

        def number() -> int:
            return chance.randrange(10)

        def turns() -> int:
            return chance.choice([0, 1, 3, 10, 30, 100, 1000])

        def name() -> str:
            return chance.choice(sorted(SIZES))

        acts: dict[Callable[[], None], int] = {
            lambda: self.ask([name(), name()], turns(), chance.random() < 0.3): 5,
            lambda: self.use(name(), turns(), chance.randrange(1, 4)): 5,
            lambda: self.cancel(number()): 2,
            lambda: self.release(number(), turns(), chance.random() < 0.3): 8,
            lambda: self.hold_back(name()): 1,
            lambda: self.let_go(number(), turns()): 3,
            lambda: self.let_fail(name(), chance.choice(BREAKS)): 1,
            lambda: self.pin(number(), chance.random() < 0.3): 1,
            lambda: self.move(number(), turns(), chance.choice(MOVES)): 4,
            lambda: self.force(number()): 1,
            lambda: self.answer(number(), chance.random() < 0.6, turns()): 3,
            lambda: self.spoil(number(), chance.random() < 0.2, chance.random() < 0.2): 1,
            lambda: self.press(chance.randrange(4)): 1,
            lambda: self.pass_time(chance.choice([0.1, 0.1, 1.2])): 3,
        }
        for act in chance.choices(list(acts), list(acts.values()), k=25):
            act()
            self.steps += 1
            self.collect()
            self.nothing_is_wrong()

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def collect(self) -> None:
        """Take the leases of those who got one."""
        if not hasattr(self, "manager"):
            return
        for task in [task for task in self.asks if task.done]:
            self.asks.remove(task)
            del self.cancels[task]
            if isinstance(task.result, Lease):
                self.leases.append(task.result)
                task.result = None
            else:
                assert isinstance(task.error, EXPECTED)
                task.error = None

    @invariant()
    def nothing_is_wrong(self) -> None:
        if not hasattr(self, "manager"):
            return
        assert not self.machine.mistakes
        assert not [error for error in self.conductor.errors if not isinstance(error, EXPECTED)]
        open_ones = [one for one in self.machine.runtimes if not one.closed]
        if self.limit is not None:
            assert len(open_ones) + len(self.loader.under_way) <= self.limit
        for place, total in self.machine.total.items():
            assert self.machine.taken[place] + self.machine.others[place] <= total
        loads = self.loader.under_way
        assert len(loads) == len(set(loads)), "one model is loaded twice"
        listed = [one.name for one in open_ones]
        assert len(listed) == len(set(listed)), "one model is in memory twice"

    def teardown(self) -> None:
        if not hasattr(self, "manager"):
            return
        try:
            self.calm_down()
        finally:
            self.watchdog.stop()
            self.conducted.__exit__(None, None, None)

    def calm_down(self) -> None:
        """Once failures stop and leases are given back, all that waits ends, and all memory."""
        self.machine.others[GPU] = 0
        self.loader.held_back.clear()
        self.loader.outcomes.clear()
        for one in self.machine.runtimes:
            one.demotion_fails = one.return_fails = False
            self.conductor.spawn(one.end_request, "answer")
        for _ in range(40):
            self.conductor.pass_time(0.3)
            self.collect()
            self.leases.clear()
            if not self.asks and not self.manager.loading():
                break
        self.conductor.pass_time(0.3)
        assert not self.asks, "somebody waits for ever"
        assert not self.manager.loading()
        assert not self.manager.waiting()
        assert all(not one.in_use for one in self.manager.residents())
        self.try_by_hand(self.manager.unload_all)
        self.manager.close()
        self.conductor.pass_time(1.0)
        assert self.machine.taken == {GPU: 0, RAM: 0}
        assert not self.conductor.tasks, "a thread goes on for ever"


@pytest.fixture(scope="module")
def template(saved_llama: Path) -> RuntimePlan:
    return RuntimeLoader().plan(RuntimeConfig(f"path:{saved_llama}", device="cpu"))


def test_whatever_happens_in_whatever_order_nothing_is_lost(template: RuntimePlan) -> None:
    class Told(Storm):
        pass

    Told.template = template
    run_state_machine_as_test(
        Told,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
