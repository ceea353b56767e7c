"""A runtime on a real cluster of three nodes answers, stops and ends as one of this machine."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ollm_widgets.cluster.client.wanting import wanted_of
from ollm_widgets.cluster.cluster import Cluster
from ollm_widgets.errors import (
    Cancelled,
    ConfigError,
    HostLostError,
    RuntimeClosedError,
)
from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig
from ollm_widgets.runtime.loader import RuntimeLoader
from ollm_widgets.runtime.residency.manager import RuntimeManager
from tests.cluster.tiny import PROMPT, PROMPT_IDS, answer_of, text_of

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress
    from ollm_widgets.cluster.messages import HostView
    from ollm_widgets.runtime.completion import Completion
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.elsewhere import Loader
    from tests.cluster.on_ray.real_ray import Client, Hosts, RealRay

pytest.importorskip("ray")

from tests.cluster.on_ray.real_ray import NODES, until

PATIENCE_S = 60.0
LONG = GenerationConfig(max_new_tokens=30_000)


def config_of(folder: Path, **more: str) -> RuntimeConfig:
    return RuntimeConfig(str(folder), device="ray", dtype="float32", **more)  # type: ignore[arg-type]


def key_of(folder: Path) -> str:
    return wanted_of(config_of(folder), "any", {}).key


@pytest.fixture
def cluster(three_nodes: Hosts, ray_nodes: RealRay) -> Iterator[Cluster]:
    # Hosts that import their libraries on a busy machine are silent for longer than a load takes.
    cluster = Cluster(ray_nodes.address, busy_wait_s=PATIENCE_S)
    yield cluster
    cluster.leave()


@pytest.fixture
def loader(cluster: Cluster) -> Loader:
    return cluster.over(RuntimeLoader())


@pytest.fixture
def runtime(loader: Loader, tiny_models: tuple[Path, ...]) -> Iterator[Runtime]:
    runtime = loader.load(config_of(tiny_models[0]))
    yield runtime
    runtime.close()


def said(folder: Path, new_tokens: int) -> str:
    return text_of(folder, answer_of(folder, new_tokens))


def holders(hosts: Hosts, folder: Path) -> list[HostView]:
    key = key_of(folder)
    return [host for host in hosts.view().hosts if any(copy.key == key for copy in host.held)]


def nothing_reserved(hosts: Hosts) -> bool:
    return hosts.view().reservations == 0


# ---------------------------------------------------------------------- answering


@pytest.mark.smoke
def test_it_answers_as_transformers_does_and_says_where(
    three_nodes: Hosts, cluster: Cluster, loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    stages: list[str] = []

    def progress(one: LoadProgress) -> None:
        stages.append(one.stage)

    runtime = loader.load(config_of(tiny_models[0]), progress)
    (holder,) = holders(three_nodes, tiny_models[0])
    assert runtime.plan.node == holder.node
    assert runtime.plan.config == config_of(tiny_models[0])
    assert runtime.memory().host_bytes > 0
    assert "Read weights" in stages
    expected = said(tiny_models[0], 40)
    settings = GenerationConfig(max_new_tokens=40)
    pieces = list(runtime.stream(PROMPT, settings))
    assert "".join(piece.text for piece in pieces) == expected
    assert pieces[-1].finish_reason == "length"
    assert pieces[-1].new_tokens == 40
    assert runtime.complete(PROMPT, settings).text == expected
    assert runtime.last_completion is not None
    ids = torch.tensor([PROMPT_IDS])
    assert runtime.generate(ids, settings).tolist() == [
        [*PROMPT_IDS, *answer_of(tiny_models[0], 40)]
    ]
    until(lambda: nothing_reserved(three_nodes))
    runtime.close()
    assert holders(three_nodes, tiny_models[0]) == []
    with pytest.raises(RuntimeClosedError):
        runtime.complete(PROMPT)


def test_its_card_names_its_node_and_what_it_holds_there(runtime: Runtime) -> None:
    runtime.complete(PROMPT, GenerationConfig(max_new_tokens=4))
    rows = {row.term: row.text for row in runtime.card().rows}
    assert runtime.plan.node in rows["Node"]
    assert "MiB" in rows["Host memory there"]
    assert runtime.untraceable == f"Answers on node {runtime.plan.node} are not traced."


def test_what_needs_the_model_itself_is_refused_by_the_name_of_its_node(runtime: Runtime) -> None:
    node = runtime.plan.node
    for use in (
        lambda: runtime.model,  # type: ignore[attr-defined]
        lambda: runtime.tokenizer,  # type: ignore[attr-defined]
        runtime.demote,
        runtime.trace,
        lambda: runtime.compare_kv("x"),  # type: ignore[attr-defined]
    ):
        with pytest.raises(ConfigError, match=f"on node {node}"):
            use()


def test_what_the_host_refuses_comes_back_as_its_error(runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match=f"On node {runtime.plan.node}: .*no chat template"):
        runtime.complete([{"role": "user", "content": "w5"}])
    assert runtime.complete(PROMPT, GenerationConfig(max_new_tokens=2)).new_tokens == 2


# ---------------------------------------------------------------------- leaving early


@pytest.mark.smoke
def test_a_cancel_ends_the_answer_there_with_what_it_has(
    three_nodes: Hosts, runtime: Runtime, tiny_models: tuple[Path, ...]
) -> None:
    cancel = threading.Event()
    pieces = runtime.stream(PROMPT, LONG, cancel)
    next(pieces)
    assert runtime.busy
    cancel.set()
    *_rest, last = pieces
    assert last.finish_reason == "cancelled"
    assert last.new_tokens > 0
    (holder,) = holders(three_nodes, tiny_models[0])
    took_s = until(
        lambda: not three_nodes.host("ask", holder.host, key_of(tiny_models[0]), "queue")
    )
    assert took_s < 1
    until(lambda: nothing_reserved(three_nodes))
    assert not runtime.busy


def test_an_answer_that_nobody_holds_any_more_ends_there(
    three_nodes: Hosts, runtime: Runtime
) -> None:
    pieces = runtime.stream(PROMPT, LONG)
    next(pieces)
    del pieces
    gc.collect()
    assert until(lambda: nothing_reserved(three_nodes)) < 5
    until(lambda: not runtime.busy)


def test_generate_gives_the_tokens_so_far_after_a_cancel(
    three_nodes: Hosts, runtime: Runtime
) -> None:
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    ids = runtime.generate(torch.tensor([PROMPT_IDS]), LONG, cancel=cancel)
    assert ids[0, : len(PROMPT_IDS)].tolist() == PROMPT_IDS
    assert ids.shape[1] < 30_000
    until(lambda: nothing_reserved(three_nodes))


def test_a_cancelled_load_leaves_nothing_behind(
    three_nodes: Hosts, loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    cancel = threading.Event()

    def progress(_progress: LoadProgress) -> None:
        cancel.set()

    with pytest.raises(Cancelled):
        loader.load(config_of(tiny_models[1]), progress, cancel)
    until(lambda: nothing_reserved(three_nodes))
    until(lambda: not any(host.loading for host in three_nodes.view().hosts))


def test_callers_of_one_model_take_turns_and_know_how_many_come_before(runtime: Runtime) -> None:
    first = runtime.stream(PROMPT, LONG, caller="first")
    next(first)
    told: list[int] = []
    answers: list[int] = []

    def ask() -> None:
        settings = GenerationConfig(max_new_tokens=3)
        completion = runtime.complete(PROMPT, settings, caller="second", on_wait=told.append)
        answers.append(completion.new_tokens)

    second = threading.Thread(target=ask)
    second.start()
    until(lambda: told == [1])
    assert sorted(one.caller for one in runtime.queue) == ["first", "second"]
    first.close()
    second.join(PATIENCE_S)
    assert told == [1, 0]
    assert answers == [3]


@pytest.mark.smoke
def test_requests_under_way_end_when_the_cluster_is_left_and_are_not_taken_elsewhere(
    three_nodes: Hosts, cluster: Cluster, runtime: Runtime
) -> None:
    running = runtime.stream(PROMPT, LONG, caller="first")
    next(running)
    told: list[int] = []
    answers: list[Completion] = []

    def ask() -> None:
        answers.append(runtime.complete(PROMPT, LONG, caller="second", on_wait=told.append))

    waiting = threading.Thread(target=ask)
    waiting.start()
    until(lambda: told == [1])
    cluster.leave()
    *_rest, last = running
    waiting.join(PATIENCE_S)
    assert last.finish_reason == "cancelled"
    (second,) = answers
    # It may have had its turn for a moment: each of the two is told by a message of its own.
    assert second.finish_reason == "cancelled"
    assert second.new_tokens < LONG.max_new_tokens
    until(lambda: not three_nodes.view().clients)
    assert not cluster.connected
    until(lambda: nothing_reserved(three_nodes))


# ---------------------------------------------------------------------- sharing and keeping


def test_a_model_leaves_with_the_last_runtime_that_uses_it(
    three_nodes: Hosts, loader: Loader, runtime: Runtime, tiny_models: tuple[Path, ...]
) -> None:
    again = loader.load(config_of(tiny_models[0]))
    assert len(holders(three_nodes, tiny_models[0])) == 1
    again.close()
    assert again.memory().host_bytes > 0
    assert runtime.complete(PROMPT, GenerationConfig(max_new_tokens=2)).new_tokens == 2
    del again
    runtime.close()
    assert holders(three_nodes, tiny_models[0]) == []
    assert runtime.memory().host_bytes == 0


def test_a_runtime_that_nobody_holds_gives_its_model_up(
    three_nodes: Hosts, loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    runtime = loader.load(config_of(tiny_models[2]))
    assert holders(three_nodes, tiny_models[2])
    del runtime
    gc.collect()
    until(lambda: not holders(three_nodes, tiny_models[2]))


@pytest.mark.smoke
def test_a_manager_keeps_it_as_one_of_its_own(
    three_nodes: Hosts, cluster: Cluster, tiny_models: tuple[Path, ...]
) -> None:
    manager = RuntimeManager(cluster=cluster)
    config = config_of(tiny_models[3])
    with manager.acquire(config) as lease, manager.acquire(config) as other:
        assert other.runtime is lease.runtime
        completion = lease.runtime.complete(PROMPT, GenerationConfig(max_new_tokens=5))
        assert completion.text == said(tiny_models[3], 5)
        name = lease.id
    manager.pin(name)
    assert key_of(tiny_models[3]) in cluster.view().pinned
    manager.unpin(name)
    assert not cluster.view().pinned
    manager.unload(name)
    assert holders(three_nodes, tiny_models[3]) == []
    manager.close()


@pytest.mark.smoke
def test_models_stay_when_their_notebook_leaves(
    three_nodes: Hosts, ray_nodes: RealRay, tiny_models: tuple[Path, ...]
) -> None:
    cluster = Cluster(ray_nodes.address)
    manager = RuntimeManager(cluster=cluster)
    with manager.acquire(config_of(tiny_models[1])):
        pass
    manager.close()
    (holder,) = holders(three_nodes, tiny_models[1])
    until(lambda: not three_nodes.view().clients)
    later = Cluster(ray_nodes.address)
    runtime = later.over(RuntimeLoader()).load(config_of(tiny_models[1]))
    assert runtime.plan.node == holder.node
    later.leave()


def test_the_cluster_shows_who_holds_what(cluster: Cluster, runtime: Runtime) -> None:
    table = cluster.table()
    assert sorted(row.cells[0] for row in table.rows) == sorted(NODES)
    assert sum(runtime.name in row.cells[1] for row in table.rows) == 1
    assert "connected" in repr(cluster)


# ---------------------------------------------------------------------- when something dies


@pytest.mark.smoke
def test_a_host_that_dies_in_the_midst_of_an_answer_is_named(
    three_nodes: Hosts, runtime: Runtime, tiny_models: tuple[Path, ...]
) -> None:
    pieces = runtime.stream(PROMPT, LONG)
    next(pieces)
    node = runtime.plan.node
    os.kill(three_nodes.pid(three_nodes.on(node)), signal.SIGKILL)
    with pytest.raises(HostLostError, match=f"Node {node} went away after") as lost:
        list(pieces)
    assert lost.value.node == node
    completion = runtime.complete(PROMPT, GenerationConfig(max_new_tokens=20))
    assert completion.text == said(tiny_models[0], 20)
    assert runtime.plan.node != node
    until(lambda: nothing_reserved(three_nodes))
    three_nodes.settle(len(NODES))


def test_a_host_that_is_slow_is_waited_for(
    three_nodes: Hosts, runtime: Runtime, tiny_models: tuple[Path, ...]
) -> None:
    process = three_nodes.pid(three_nodes.on(runtime.plan.node))
    os.kill(process, signal.SIGSTOP)
    # For longer than the registry takes to ask whether it is there.
    goes_on = threading.Timer(6.0, os.kill, (process, signal.SIGCONT))
    goes_on.start()
    completion = runtime.complete(PROMPT, GenerationConfig(max_new_tokens=20))
    goes_on.join()
    assert completion.text == said(tiny_models[0], 20)
    assert process == three_nodes.pid(three_nodes.on(runtime.plan.node))
    until(lambda: nothing_reserved(three_nodes))


def test_a_registry_that_is_restarted_is_told_again_what_is_used(
    three_nodes: Hosts, cluster: Cluster, runtime: Runtime, tiny_models: tuple[Path, ...]
) -> None:
    runtime.set_pinned(True)  # type: ignore[attr-defined]
    three_nodes.restart_registry()
    completion = runtime.complete(PROMPT, GenerationConfig(max_new_tokens=20))
    assert completion.text == said(tiny_models[0], 20)
    view = cluster.view()
    assert view.pinned == {key_of(tiny_models[0])}
    assert len(view.clients) == 1
    runtime.set_pinned(False)  # type: ignore[attr-defined]
    three_nodes.settle(len(NODES))


# ---------------------------------------------------------------------- what others can reach


def test_a_host_listens_no_more_than_any_process_of_ray(client: Client, three_nodes: Hosts) -> None:
    """Serve's own port would take pickles from anybody, without Ray's token."""
    import psutil
    import ray
    from ray._private import state

    def listening(pid: int) -> int:
        return sum(one.status == "LISTEN" for one in psutil.Process(pid).net_connections("inet"))

    ray.get(client.presence.__ray_ready__.remote())
    plain = listening(int(state.actors(client.presence._actor_id.hex())["Pid"]))
    for host in three_nodes.view().hosts:
        assert listening(three_nodes.pid(host.host)) == plain
