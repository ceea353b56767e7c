"""A manager with a cluster: what runs there is leased as what runs here, and takes nothing here."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

import pytest

from ollm_widgets import RuntimeBusyError, RuntimeConfig, RuntimeManager, RuntimePlan
from ollm_widgets.errors import CoolDownError, HostLostError, OutOfMemory, PlanNotExecutableError
from ollm_widgets.runtime.residency.elsewhere import Loader
from ollm_widgets.runtime.residency.places import held_bytes, needed_bytes
from ollm_widgets.runtime.residency.upkeep import TICK_S
from ollm_widgets.session.room import room_for
from tests.runtime.residency.conftest import MakeManager
from tests.runtime.residency.simulated import (
    GPU,
    RAM,
    NoNeighbours,
    SimulatedLoader,
    SimulatedMachine,
    SimulatedRuntime,
)


class RuntimeOnANode(SimulatedRuntime):
    """Behaves as a runtime on another machine towards a manager."""

    can_demote = False  # type: ignore[assignment]
    pinned = False

    def set_pinned(self, pinned: bool) -> None:
        self.pinned = pinned


class LoaderOverANode:
    """Sends configs of the device ``ray``, and what is left on auto, to a node."""

    def __init__(self, node: Node, here: Loader) -> None:
        self.resolver, self.backends = node.models.template, {}  # nobody looks at them here
        self._node, self._here = node, here

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        return self.plan_with(config, {})

    def plan_with(self, config: RuntimeConfig, more_bytes: Mapping[str, int]) -> RuntimePlan:
        if not self._goes_there(config):
            return self._here.plan_with(config, more_bytes)
        assert not more_bytes, "what is free here says nothing of a node"
        plan = self._node.models.plan(config)
        return plan.refine(
            node="10.0.0.2",
            node_reason="It is the only node.",
            model_path=None,
            needs_files=self._node.needs_files,
            executable=plan.executable and not self._node.needs_files,
        )

    def other_plans(self, plan: RuntimePlan) -> tuple[RuntimePlan, ...]:
        return self._here.other_plans(plan)

    def download(self, *_arguments: object) -> None:
        raise AssertionError("a node brings its files itself")

    def load(self, config: RuntimeConfig, *rest: Any) -> object:
        if not self._goes_there(config):
            return self._here.load(config, *rest)
        plan, models = self.plan(config), self._node.models
        loaded = models.load(config, *rest)
        loaded.machine.runtimes.remove(loaded)
        return RuntimeOnANode(models.machine, plan, loaded.size, loaded.host)

    def _goes_there(self, config: RuntimeConfig) -> bool:
        return config.device in ("ray", "auto")


class Node:
    """A cluster of one node that has an accelerator of 20 bytes."""

    def __init__(self, template: RuntimePlan) -> None:
        machine = SimulatedMachine({GPU: 20, RAM: 20})
        self.models = SimulatedLoader(machine, template, {"a": 4, "b": 4, "e": 9, "f": 11})
        self.needs_files = False
        self.manager: RuntimeManager | None = None
        self.left_with: list[list[str]] = []

    def over(self, loader: Loader) -> Loader:
        return cast(Loader, LoaderOverANode(self, loader))

    def leave(self) -> None:
        assert self.manager is not None
        self.left_with.append([one.id for one in self.manager.residents()])


@pytest.fixture
def node(template: RuntimePlan) -> Node:
    return Node(template)


@pytest.fixture
def manager(make_manager: MakeManager, node: Node) -> RuntimeManager:
    manager = node.manager = make_manager(1, cluster=node, idle_timeout_s=0.0)
    return manager


def there(name: str, **fields: object) -> RuntimeConfig:
    return RuntimeConfig(f"path:/models/{name}", device="ray", **fields)  # type: ignore[arg-type]


def here(name: str, **fields: object) -> RuntimeConfig:
    return RuntimeConfig(f"path:/models/{name}", device="cuda:0", **fields)  # type: ignore[arg-type]


def test_nobody_leaves_this_machine_for_what_runs_on_a_node(
    manager: RuntimeManager, machine: SimulatedMachine, node: Node
) -> None:
    with manager.acquire(here("e")), manager.acquire(there("f")) as far:
        assert far.runtime.plan.node == "10.0.0.2"
        assert machine.taken[GPU] == 9
        assert node.models.machine.taken[GPU] == 11
    assert [one.id for one in manager.residents()] == ["e", "f"]


def test_a_node_counts_neither_in_max_loaded_nor_in_a_group(
    manager: RuntimeManager, models: SimulatedLoader
) -> None:
    for name in "ab":
        manager.acquire(there(name, concurrency_group="chat")).release()
    manager.acquire(here("a", concurrency_group="chat")).release()
    manager.acquire(here("b", concurrency_group="chat")).release()
    # Of the two here one had to go, for the limit and for the group.
    assert {(one.name, one.elsewhere) for one in manager.residents()} == {
        ("a", True),
        ("b", True),
        ("b", False),
    }
    assert models.loads == ["a", "b"]


def test_the_same_model_here_and_there_are_two_runtimes(manager: RuntimeManager) -> None:
    with manager.acquire(there("a")) as far, manager.acquire(here("a")) as near:
        assert far.runtime is not near.runtime
    assert manager.get(there("a")) is far.runtime
    assert manager.get(here("a")) is near.runtime


def test_auto_and_ray_are_one_runtime_where_auto_goes_to_the_cluster(
    manager: RuntimeManager, node: Node
) -> None:
    with manager.acquire(there("a")) as first:
        automatic = RuntimeConfig("path:/models/a")
        with manager.acquire(automatic) as second:
            assert second.runtime is first.runtime
    assert node.models.loads == ["a"]


def test_callers_share_one_load_on_a_node_and_see_its_progress(
    manager: RuntimeManager, node: Node
) -> None:
    seen: list[list[str]] = [[], []]
    runtimes = []

    def ask(number: int) -> None:
        with manager.acquire(there("a"), lambda one: seen[number].append(one.stage)) as lease:
            runtimes.append(lease.runtime)

    callers = [threading.Thread(target=ask, args=(number,)) for number in (0, 1)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert node.models.loads == ["a"]
    assert runtimes[0] is runtimes[1]
    assert any("Read weights" in stages for stages in seen)


def test_a_plan_of_a_node_needs_and_holds_nothing_here(manager: RuntimeManager) -> None:
    plan = manager.plan(there("f"))
    assert plan.node == "10.0.0.2"
    assert needed_bytes(plan) == {}
    assert manager.would_leave(plan) == ()
    assert room_for(manager, plan) == ()
    with manager.acquire(there("f")) as lease:
        assert lease.runtime.memory().accelerator_bytes == 11
        assert held_bytes(lease.runtime.plan, lease.runtime.memory()) == {}


def test_files_are_brought_by_the_node(manager: RuntimeManager, node: Node) -> None:
    node.needs_files = True
    with manager.acquire(there("a")) as lease:
        assert lease.runtime.name == "a"


def test_what_cannot_run_there_fails_with_the_reason_of_the_cluster(
    manager: RuntimeManager, node: Node
) -> None:
    node.models.failures["a"] = [PlanNotExecutableError("10.0.0.2 is too small.")]
    with pytest.raises(PlanNotExecutableError, match="10\\.0\\.0\\.2 is too small"):
        manager.acquire(there("a"))


def test_this_machine_tries_no_other_backend_for_a_node(
    manager: RuntimeManager, models: SimulatedLoader, node: Node
) -> None:
    models.alternatives = True
    node.models.failures["a"] = [OutOfMemory("Full.", tier=GPU, needed_bytes=4, free_bytes=0)]
    with pytest.raises(OutOfMemory):
        manager.acquire(there("a"))
    assert node.models.loads == ["a"]
    assert models.loads == []


def test_a_lost_node_is_no_reason_to_wait_with_the_next_try(
    manager: RuntimeManager, node: Node
) -> None:
    node.models.failures["a"] = [HostLostError("It went away.", node="10.0.0.2")]
    with pytest.raises(HostLostError):
        manager.acquire(there("a"))
    manager.acquire(there("a")).release()
    node.models.failures["b"] = [OSError("The disk is gone.")]
    with pytest.raises(OSError, match="disk"):
        manager.acquire(there("b"))
    with pytest.raises(CoolDownError):
        manager.acquire(there("b"))


def test_a_node_knows_what_is_pinned(manager: RuntimeManager) -> None:
    runtime = cast(RuntimeOnANode, manager.acquire(there("a")).runtime)
    manager.pin("a")
    assert runtime.pinned
    manager.unpin("a")
    assert not runtime.pinned


def test_an_unused_runtime_of_a_node_leaves_after_the_timeout(
    make_manager: MakeManager, node: Node
) -> None:
    now = [0.0]
    manager = node.manager = make_manager(cluster=node, idle_timeout_s=60.0, clock=lambda: now[0])
    manager.acquire(there("a")).release()
    now[0] = 61.0 + TICK_S
    manager._watchdog.tick()
    assert manager.residents() == ()
    assert node.models.machine.taken[GPU] == 0


def test_other_kernels_are_not_shown_what_holds_nothing_here(manager: RuntimeManager) -> None:
    manager.acquire(there("a")).release()
    manager.acquire(here("b")).release()
    assert [one.name for one in manager.shown()] == ["b"]


def test_who_ends_leaves_the_cluster_before_anything_is_closed(
    manager: RuntimeManager, node: Node
) -> None:
    manager.acquire(there("a")).release()
    manager.close()
    assert node.left_with == [["a"]]
    assert manager.residents() == ()


def test_a_cluster_that_cannot_be_told_keeps_nobody_from_ending(
    make_manager: MakeManager, machine: SimulatedMachine, node: Node
) -> None:
    # `leave` fails without a manager.
    manager = make_manager(cluster=node)
    manager.acquire(here("a")).release()
    manager.close()
    assert machine.taken[GPU] == 0


def test_another_cluster_is_taken_once_nothing_runs_on_the_one_before(
    manager: RuntimeManager, node: Node, template: RuntimePlan
) -> None:
    other = Node(template)
    other.manager = manager
    manager.acquire(there("a")).release()
    with pytest.raises(RuntimeBusyError, match="a runs on the cluster"):
        manager.use_cluster(other)
    manager.unload("a")
    manager.use_cluster(other)
    manager.acquire(there("a")).release()
    assert (node.left_with, other.models.loads) == ([[]], ["a"])


def test_without_a_cluster_a_config_for_one_does_not_run(
    template: RuntimePlan,
) -> None:
    manager = RuntimeManager(neighbours=NoNeighbours())
    config = RuntimeConfig(f"path:{template.model_path}", device="ray")
    with pytest.raises(PlanNotExecutableError, match="no cluster is at hand"):
        manager.acquire(config)
    assert not manager.plan(config).is_executable()
