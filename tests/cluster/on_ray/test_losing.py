"""What is left when a notebook, a node, or a host is lost, and what goes on as if nothing was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ollm_widgets.cluster.client.wanting import wanted_of
from ollm_widgets.cluster.cluster import Cluster
from ollm_widgets.errors import HostLostError
from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig
from ollm_widgets.runtime.loader import RuntimeLoader
from tests.cluster.tiny import PROMPT, answer_of, text_of

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress
    from ollm_widgets.runtime.completion import Completion
    from ollm_widgets.runtime.residency.elsewhere import Loader
    from tests.cluster.on_ray.real_ray import Hosts, RealRay

pytest.importorskip("ray")

from tests.cluster.on_ray.real_ray import NODES, until

LONG = GenerationConfig(max_new_tokens=30_000)
SHORT = GenerationConfig(max_new_tokens=20)
PATIENCE_S = 60.0
# A notebook: it asks, says what has come, and waits to be ended.
_NOTEBOOK = """
import sys
from ray._private.worker import print_to_stdstream
from ollm_widgets import Cluster, GenerationConfig, RuntimeConfig, RuntimeManager

address, model, new_tokens = sys.argv[1:]
stages = []
cluster = Cluster(address)
manager = RuntimeManager(cluster=cluster)
config = RuntimeConfig(model, device="ray", dtype="float32")
with manager.acquire(config, lambda progress: stages.append(progress.stage)) as lease:
    settings = GenerationConfig(max_new_tokens=int(new_tokens))
    # As Ray does when a process or a node of the cluster has gone.
    print_to_stdstream({"lines": ["Gone."], "pid": "raylet", "is_err": False}, False)
    pieces = lease.runtime.stream("w5 w17 w99 w23 w42", settings)
    print(next(pieces).text, end="", flush=True)
    if settings.max_new_tokens == 30_000:
        print(flush=True)
        sys.stdin.read()
    print("".join(piece.text for piece in pieces))
    print(lease.runtime.plan.node, "Read weights" in stages)
    more = lease.runtime.stream("w5", GenerationConfig(max_new_tokens=30_000))
    next(more)
    cluster.leave()
    print([piece.finish_reason for piece in more][-1])
manager.close()
"""


@pytest.fixture
def loader(three_nodes: Hosts, ray_nodes: RealRay) -> Iterator[Loader]:
    cluster = Cluster(ray_nodes.address)
    yield cluster.over(RuntimeLoader())
    cluster.leave()


def config_of(folder: Path) -> RuntimeConfig:
    return RuntimeConfig(str(folder), device="ray", dtype="float32")


def key_of(folder: Path) -> str:
    return wanted_of(config_of(folder), "any", {}).key


def notebook(ray_nodes: RealRay, folder: Path, new_tokens: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _NOTEBOOK, ray_nodes.address, str(folder), str(new_tokens)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(hosts: Hosts, node: str) -> None:
    os.kill(hosts.pid(hosts.on(node)), signal.SIGKILL)


def nodes_with(hosts: Hosts, folder: Path) -> list[str]:
    key = key_of(folder)
    return [host.node for host in hosts.view().hosts if key in {copy.key for copy in host.held}]


# ---------------------------------------------------------------------- notebooks


def test_a_notebook_that_dies_leaves_no_request_and_finds_its_model_when_it_comes_back(
    three_nodes: Hosts, ray_nodes: RealRay, tiny_models: tuple[Path, ...]
) -> None:
    model = tiny_models[0]
    first = notebook(ray_nodes, model, LONG.max_new_tokens)
    try:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("w")
        (node,) = nodes_with(three_nodes, model)
        host = three_nodes.on(node)
        view = three_nodes.view()
        assert view.reservations == 1
        assert len(view.clients) == 1
        assert three_nodes.host("ask", host, key_of(model), "queue")
    finally:
        first.kill()
        first.communicate()
    until(lambda: not three_nodes.view().clients)
    assert three_nodes.view().reservations == 0
    until(lambda: not three_nodes.host("ask", host, key_of(model), "queue"))

    second = notebook(ray_nodes, model, SHORT.max_new_tokens)
    said, _errors = second.communicate(timeout=PATIENCE_S)
    answer, where, end = said.splitlines()
    assert answer == text_of(model, answer_of(model, SHORT.max_new_tokens))
    assert where == f"{node} False"
    # Who leaves in the midst of an answer keeps what it has, though Ray's connection is gone.
    assert end == "cancelled"
    until(lambda: not three_nodes.view().clients)
    assert nodes_with(three_nodes, model) == [node]


# ---------------------------------------------------------------------- hosts


def test_who_waits_for_a_turn_on_a_host_that_dies_is_answered_by_another(
    three_nodes: Hosts, loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    model = tiny_models[0]
    runtime = loader.load(config_of(model))
    running = runtime.stream(PROMPT, LONG, caller="first")
    next(running)
    before: list[int] = []
    answers: list[Completion] = []

    def ask() -> None:
        answers.append(runtime.complete(PROMPT, SHORT, caller="second", on_wait=before.append))

    waiting = threading.Thread(target=ask)
    waiting.start()
    until(lambda: before == [1])
    node = runtime.plan.node
    kill(three_nodes, node)
    with pytest.raises(HostLostError, match=f"Node {node} went away after"):
        list(running)
    waiting.join(PATIENCE_S)
    assert answers[0].text == text_of(model, answer_of(model, SHORT.max_new_tokens))
    assert before[-1] == 0
    assert runtime.plan.node != node
    until(lambda: three_nodes.view().reservations == 0)
    three_nodes.settle(len(NODES))


def test_a_host_that_dies_while_it_loads_is_replaced_by_another(
    three_nodes: Hosts, loader: Loader, tiny_models: tuple[Path, ...]
) -> None:
    model = tiny_models[1]
    died: list[str] = []

    def progress(_progress: LoadProgress) -> None:
        loading = [host.node for host in three_nodes.view().hosts if host.loading]
        if loading and not died:
            died.extend(loading)
            kill(three_nodes, *loading)

    runtime = loader.load(config_of(model), progress)
    (node,) = died
    assert runtime.plan.node != node
    answer = runtime.complete(PROMPT, SHORT)
    assert answer.text == text_of(model, answer_of(model, SHORT.max_new_tokens))
    until(lambda: three_nodes.view().reservations == 0)
    three_nodes.settle(len(NODES))


def test_a_cluster_without_hosts_starts_one_with_the_first_need(
    three_nodes: Hosts, ray_nodes: RealRay, tiny_models: tuple[Path, ...]
) -> None:
    model = tiny_models[3]
    cluster = Cluster(ray_nodes.address, name="from-none", hosts=(0, 1))
    try:
        cluster.connect()
        assert cluster.view().hosts == ()
        loader = cluster.over(RuntimeLoader())
        assert loader.plan(config_of(model)).node
        runtime = loader.load(config_of(model))
        answer = runtime.complete(PROMPT, SHORT)
        assert answer.text == text_of(model, answer_of(model, SHORT.max_new_tokens))
        (host,) = cluster.view().hosts
        assert host.node == runtime.plan.node
    finally:
        cluster.close(hosts=True)
    # Those of another name are others.
    assert len(three_nodes.view().hosts) == len(NODES)
