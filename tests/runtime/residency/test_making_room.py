from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollm_widgets import (
    LoadProgress,
    PlanNotExecutableError,
    RuntimeBusyError,
    RuntimeConfig,
    RuntimeLoader,
    RuntimeManager,
    RuntimePlan,
)
from ollm_widgets.errors import NoRoomError
from ollm_widgets.runtime.residency.records import Demoted, Lease, Unloaded
from ollm_widgets.runtime.residency.surroundings import HeldRuntime, Holder
from tests.runtime.residency.conftest import MakeManager
from tests.runtime.residency.simulated import (
    GPU,
    RAM,
    NoNeighbours,
    SimulatedLoader,
    SimulatedMachine,
)

PATIENCE_S = 20.0
LIMIT = 2
actions = st.lists(
    st.tuples(
        st.sampled_from(["use", "use", "hold", "release", "pin", "unpin"]),
        st.sampled_from(["a", "b", "c", "d"]),
    ),
    max_size=30,
)


def names(manager: RuntimeManager) -> list[str]:
    return [resident.name for resident in manager.residents()]


def use(manager: RuntimeManager, config: RuntimeConfig) -> None:
    manager.acquire(config).release()


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(actions)
def test_the_least_recently_used_goes_first_in_every_order(
    template: RuntimePlan, todo: list[tuple[str, str]]
) -> None:
    machine = SimulatedMachine({GPU: 1000, RAM: 1000})
    models = SimulatedLoader(machine, template, dict.fromkeys("abcd", 1))
    manager = RuntimeManager(
        cast(RuntimeLoader, models),
        LIMIT,
        busy_wait_s=0.0,
        gauge=machine,
        neighbours=NoNeighbours(),
    )
    order: OrderedDict[str, None] = OrderedDict()  # the least recently used first
    held: dict[str, Lease] = {}
    pinned: set[str] = set()
    for action, name in todo:
        if action in ("use", "hold") and name not in held:
            free = [one for one in order if one not in held and one not in pinned]
            if name not in order and len(order) == LIMIT:
                if not free:
                    with pytest.raises(NoRoomError):
                        manager.acquire(models.config(name))
                    continue
                del order[free[0]]
            lease = manager.acquire(models.config(name))
            if action == "hold":
                held[name] = lease
            else:
                lease.release()
            order[name] = None
            order.move_to_end(name)
        elif action == "release" and name in held:
            held.pop(name).release()
            order.move_to_end(name)
        elif action in ("pin", "unpin") and name in order:
            (manager.pin if action == "pin" else manager.unpin)(name)
            (pinned.add if action == "pin" else pinned.discard)(name)
        assert names(manager) == list(reversed(order))
    manager.close()


def test_an_idle_runtime_goes_to_host_memory_before_it_leaves(
    make_manager: MakeManager, models: SimulatedLoader, machine: SimulatedMachine
) -> None:
    manager = make_manager()
    use(manager, models.config("c"))
    use(manager, models.config("a"))
    use(manager, models.config("b"))  # 4 bytes lack, and the 6 of c are the longest idle
    assert {one.name: one.state for one in manager.residents()} == {
        "a": "ready",
        "b": "ready",
        "c": "demoted",
    }
    assert machine.taken == {GPU: 8, RAM: 6}
    (moved,) = (event.change for event in manager.history() if event.kind == "demoted")
    assert isinstance(moved, Demoted)
    assert (moved.freed_accelerator_bytes, moved.freed_host_bytes) == (6, -6)


def test_one_in_host_memory_comes_back_when_it_is_asked_for_and_another_goes(
    make_manager: MakeManager, models: SimulatedLoader, machine: SimulatedMachine
) -> None:
    manager = make_manager()
    for name in ("c", "a", "b"):
        use(manager, models.config(name))
    loads = list(models.loads)
    with manager.acquire(models.config("c")) as lease:
        assert not lease.runtime.demoted
        assert models.loads == loads
        assert machine.taken[GPU] == 10
    kinds = [event.kind for event in manager.history()][-5:]
    assert kinds == ["demoted", "returning", "returned", "busy", "idle"]


def test_borrowing_one_in_host_memory_brings_it_back(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    use(manager, models.config("a"))
    assert manager.demote("a").freed_accelerator_bytes == 4
    assert manager.demote("a").freed_accelerator_bytes == 0
    with manager.borrow("a") as lease:
        assert not lease.runtime.demoted
    assert manager.residents()[0].state == "ready"


def test_where_host_memory_has_no_room_an_idle_runtime_leaves(
    make_manager: MakeManager, models: SimulatedLoader, machine: SimulatedMachine
) -> None:
    machine.others[RAM] = 5
    manager = make_manager()
    for name in ("c", "a", "b"):
        use(manager, models.config(name))
    assert names(manager) == ["b", "a"]


def test_one_that_cannot_be_demoted_leaves_instead(
    make_manager: MakeManager, models: SimulatedLoader, machine: SimulatedMachine
) -> None:
    manager = make_manager()
    use(manager, models.config("c"))
    machine.runtimes[0].demotion_fails = True
    use(manager, models.config("a"))
    use(manager, models.config("b"))
    assert names(manager) == ["b", "a"]


def test_a_copy_that_can_be_done_without_goes_before_anybody_has_to(
    make_manager: MakeManager, models: SimulatedLoader, machine: SimulatedMachine
) -> None:
    manager = make_manager()
    use(manager, models.config("c"))
    machine.runtimes[0].keeps_host_copy = True
    manager.demote("c")
    use(manager, models.config("c"))
    assert machine.taken == {GPU: 6, RAM: 6}
    use(manager, models.config("a"))
    machine.others[RAM] = 4
    use(manager, models.config("b"))  # c goes: what is copied already needs no more room
    assert {one.name: one.state for one in manager.residents()}["c"] == "demoted"
    assert machine.taken == {GPU: 8, RAM: 6}
    manager.unload("a")
    use(manager, models.config("c"))
    assert machine.taken == {GPU: 10, RAM: 6}
    models.host_sizes["d"] = 3
    manager.unload("b")
    use(manager, models.config("d"))
    assert machine.taken == {GPU: 8, RAM: 3}
    assert names(manager) == ["d", "c"]


def test_without_demotion_the_longest_idle_leaves(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(demotes=False)
    for name in ("c", "a", "b"):
        use(manager, models.config(name))
    assert names(manager) == ["b", "a"]
    (change,) = (event.change for event in manager.history() if event.kind == "evicted")
    assert isinstance(change, Unloaded)
    assert change.freed_bytes == 6


def test_nobody_leaves_in_vain(make_manager: MakeManager, models: SimulatedLoader) -> None:
    manager = make_manager(demotes=False)
    use(manager, models.config("d"))
    with manager.acquire(models.config("a")):
        with pytest.raises(NoRoomError, match=r"d \(idle\).* a \(busy for \d"):
            manager.acquire(models.config("e"))
        assert names(manager) == ["a", "d"]


def test_who_holds_what_is_said_in_bytes(template: RuntimePlan) -> None:
    machine = SimulatedMachine({GPU: 10 << 30, RAM: 10 << 30})
    models = SimulatedLoader(machine, template, {"c": 6 << 30, "d": 2 << 30, "e": 9 << 30})
    manager = RuntimeManager(
        cast(RuntimeLoader, models), gauge=machine, neighbours=NoNeighbours(), busy_wait_s=0.0
    )
    use(manager, models.config("c"))
    manager.pin("c")
    use(manager, models.config("d"))
    with pytest.raises(NoRoomError) as caught:
        manager.acquire(models.config("e"))
    assert str(caught.value) == (
        "No room for e: 7.0 GiB of cuda:0 is missing, held by c (pinned) with 6.0 GiB of cuda:0 "
        "and d (idle) with 2.0 GiB of cuda:0. Unload or unpin one, or load it all the same with "
        "anyway=True (%ollm load --anyway)."
    )
    manager.close()


def test_what_can_never_fit_says_so_and_nobody_leaves_for_it(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(max_loaded=1)
    use(manager, models.config("a"))
    with pytest.raises(PlanNotExecutableError, match="11 bytes"):
        manager.acquire(models.config("f"))
    assert names(manager) == ["a"]


def test_whoever_waits_says_for_whom_and_gets_the_room_first(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(max_loaded=1, busy_wait_s=PATIENCE_S)
    told = threading.Event()
    manager.subscribe(lambda event: told.set() if event.kind == "waiting" else None)
    seen: list[LoadProgress] = []
    lease = manager.acquire(models.config("a"))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(manager.acquire, models.config("b"), seen.append)
        assert told.wait(PATIENCE_S)
        (waiting,) = manager.waiting()
        assert (waiting.name, waiting.holders) == ("b", ("a",))
        told.clear()
        second = pool.submit(manager.acquire, models.config("c"))
        assert told.wait(PATIENCE_S)
        assert manager.loading() == ("b", "c")
        lease.release()
        first.result(PATIENCE_S).release()
        second.result(PATIENCE_S).release()
    assert models.loads == ["a", "b", "c"]
    assert seen[0] == LoadProgress("Wait for room", 0, 0)
    details = [event.detail for event in manager.history() if event.kind == "waiting"]
    assert details[0] == "Waits for a (busy)."
    assert manager.waiting() == ()


def test_anyway_lets_go_what_is_idle_and_waits_for_nobody(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(max_loaded=2, busy_wait_s=PATIENCE_S)
    use(manager, models.config("d"))
    with manager.acquire(models.config("a")), manager.acquire(models.config("b")):
        manager.acquire(models.config("d"), anyway=True).release()
        assert sorted(names(manager)) == ["a", "b", "d"]
    use(manager, models.config("c"))
    assert len(manager.residents()) == 2


def test_a_plan_is_the_one_that_a_load_would_follow(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(demotes=False)
    for name in ("a", "b"):
        use(manager, models.config(name))
    plan = manager.plan(models.config("c"))
    assert plan.executable, "a and b are idle"
    assert [one.id for one in manager.would_leave(plan)] == ["a"]
    manager.pin("a")
    assert [one.id for one in manager.would_leave(plan)] == ["b"]
    manager.pin("b")
    assert not manager.plan(models.config("c")).executable
    manager.unpin("a")
    use(manager, models.config("c"))
    assert names(manager) == ["c", "b"]
    known = manager.plan(models.config("c"))
    assert known is models.machine.runtimes[-1].plan
    assert manager.would_leave(known) == ()


def test_advice_is_sought_where_the_plan_was_made_with_idle_ones_gone(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(demotes=False)
    for name in ("a", "b"):
        use(manager, models.config(name))
    manager.pin("b")
    manager.advice(manager.plan(models.config("c")))
    assert models.advised_with[GPU] == models.sizes["a"]
    known = manager.plan(models.config("b"))
    manager.advice(known)
    assert models.advised_with[GPU] == models.sizes["a"] + models.sizes["b"]


def test_a_model_that_leaves_for_itself_in_another_way_leaves_for_another(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(max_loaded=1, demotes=False)
    use(manager, models.config("a"))
    use(manager, models.config("a", use_cache=False))
    (evicted,) = [event for event in manager.history() if event.kind == "evicted"]
    assert (evicted.runtime_id, evicted.detail) == ("a", "For another a.")


def test_others_of_its_group_would_leave_although_there_is_room(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    use(manager, models.config("d"))
    use(manager, models.config("a", concurrency_group="chat"))
    plan = manager.plan(models.config("b", concurrency_group="chat"))
    assert [one.id for one in manager.would_leave(plan)] == ["a"]


def test_nobody_goes_for_the_number_where_bytes_lack_all_the_same(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(2)
    for name in "ad":
        use(manager, models.config(name))
    manager.pin("a")
    with pytest.raises(NoRoomError, match="missing"):
        use(manager, models.config("e"))
    assert set(names(manager)) == {"a", "d"}


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(actions, st.sampled_from([None, 1, 2, 3]), st.sampled_from("abcde"))
def test_who_would_leave_is_who_leaves(
    template: RuntimePlan, todo: list[tuple[str, str]], limit: int | None, wanted: str
) -> None:
    machine = SimulatedMachine({GPU: 10, RAM: 10})
    sizes = {"a": 4, "b": 3, "c": 2, "d": 1, "e": 8}
    models = SimulatedLoader(machine, template, sizes)
    manager = RuntimeManager(
        cast(RuntimeLoader, models),
        limit,
        gauge=machine,
        neighbours=NoNeighbours(),
        busy_wait_s=0.0,
        demotes=False,
    )
    for action, name in todo:
        with contextlib.suppress(NoRoomError):
            if action == "use":
                use(manager, models.config(name))
        if action in ("pin", "unpin") and name in names(manager):
            (manager.pin if action == "pin" else manager.unpin)(name)
    plan = manager.plan(models.config(wanted))
    foretold = [one.id for one in manager.would_leave(plan)]
    before = set(names(manager))
    try:
        use(manager, models.config(wanted))
    except RuntimeBusyError:
        assert set(names(manager)) == before
    else:
        assert before - set(names(manager)) == set(foretold)
    manager.close()


def test_two_of_a_group_are_never_in_memory_together(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    use(manager, models.config("d"))
    first, second = (models.config(name, concurrency_group="chat") for name in "ab")
    with manager.acquire(first), pytest.raises(NoRoomError) as caught:
        manager.acquire(second, anyway=True)
    assert caught.value.message.startswith(
        "No room for b: one of group 'chat' may be in memory at a time, held by a (busy for "
    )
    assert caught.value.hint == "Wait for the busy one, or stop it.", "nothing else would help"
    use(manager, models.config("b", concurrency_group="chat"))
    assert names(manager) == ["b", "d"]
    manager.pin("b")
    with pytest.raises(NoRoomError, match=r"b \(pinned\)") as caught:
        manager.acquire(models.config("a", concurrency_group="chat"))
    assert caught.value.hint == "Unload or unpin one."


def test_a_limit_is_said_where_the_group_of_another_has_nothing_to_do_with_it(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager(max_loaded=1)
    use(manager, models.config("a", concurrency_group="chat"))
    manager.pin("a")
    with pytest.raises(NoRoomError, match=r"max_loaded is 1, held by a \(pinned\)") as caught:
        manager.acquire(models.config("b"))
    assert "raise max_loaded" in caught.value.hint


class Generous(NoNeighbours):
    """Another kernel that gives back when it is asked."""

    def __init__(self, machine: SimulatedMachine, *, gives: bool) -> None:
        super().__init__()
        self.machine, self.gives = machine, gives
        self.asked: list[tuple[str, int]] = []

    def others(self) -> tuple[Holder, ...]:
        state = "idle" if self.gives else "pinned"
        held = HeldRuntime("big", state, 5.0, {GPU: self.machine.others[GPU]})
        return (Holder(4321, "analysis.ipynb", (held,)),)

    def ask(self, place: str, needed_bytes: int, pid: int | None = None) -> tuple[Holder, ...]:
        self.asked.append((place, needed_bytes))
        holders = self.others()
        if self.gives:
            self.machine.others[GPU] = 0
        return holders


def test_another_kernel_is_asked_once_and_what_it_gives_is_used(
    make_manager: MakeManager, models: SimulatedLoader, machine: SimulatedMachine
) -> None:
    machine.others[GPU] = 8
    neighbours = Generous(machine, gives=True)
    manager = make_manager(neighbours=neighbours, busy_wait_s=PATIENCE_S)
    use(manager, models.config("c"))
    assert neighbours.asked == [(GPU, 4)]


def test_another_kernel_that_gives_nothing_is_named_in_the_error(
    make_manager: MakeManager, models: SimulatedLoader, machine: SimulatedMachine
) -> None:
    machine.others[GPU] = 8
    neighbours = Generous(machine, gives=False)
    manager = make_manager(neighbours=neighbours)
    with pytest.raises(NoRoomError, match=r"kernel, process 4321, pinned\)"):
        manager.acquire(models.config("c"))
    assert len(neighbours.asked) == 1


def test_a_smaller_limit_holds_from_the_next_load_on(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    for name in ("a", "d"):
        use(manager, models.config(name))
    assert manager.configure(max_loaded=1).max_loaded == 1
    use(manager, models.config("b"))
    assert names(manager) == ["b"]
    with pytest.raises(TypeError):
        manager.configure(limit=1)


def test_equal_plans_share_a_runtime_also_while_it_fills_the_memory(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    with (
        manager.acquire(models.config("c")) as automatic,
        manager.acquire(models.config("c", backend="optimized-native")) as explicit,
    ):
        assert automatic.runtime is explicit.runtime
    assert models.loads == ["c"]


def test_one_that_was_closed_by_hand_is_loaded_again(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    use(manager, models.config("a"))
    lease = manager.borrow("a")
    lease.runtime.close()
    lease.release()
    with manager.acquire(models.config("a")) as lease:
        assert not lease.runtime.closed


def test_a_request_without_a_lease_keeps_a_runtime_too(
    make_manager: MakeManager, models: SimulatedLoader, machine: SimulatedMachine
) -> None:
    manager = make_manager(max_loaded=1)
    use(manager, models.config("a"))
    machine.runtimes[0].begin_request()
    with pytest.raises(RuntimeBusyError, match=r"a \(busy for "):
        manager.acquire(models.config("b"))
    assert manager.evict_if_idle("a", "idle") is None
    machine.runtimes[0].end_request()
    use(manager, models.config("b"))
    assert names(manager) == ["b"]


def test_events_come_in_order_and_with_no_lock_held(
    make_manager: MakeManager, models: SimulatedLoader
) -> None:
    manager = make_manager()
    kinds: list[str] = []

    def listen(event: object) -> None:
        kinds.append(event.kind)  # type: ignore[attr-defined]
        with ThreadPoolExecutor(1) as pool:  # any lock would be held against this thread
            assert pool.submit(manager.residents).result(PATIENCE_S) is not None
        if kinds[-1] == "loaded":
            manager.pin("a")

    manager.subscribe(listen)
    use(manager, models.config("a"))
    # What a listener does comes after what it was told of, and after what had happened by then.
    assert [kind for kind in kinds if kind != "pinned"] == ["loading", "loaded", "busy", "idle"]
    assert kinds.index("pinned") > kinds.index("loaded")
    assert [event.kind for event in manager.history()] == kinds
