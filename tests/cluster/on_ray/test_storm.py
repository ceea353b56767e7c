"""Two notebooks ask four models on three nodes without a pause while nodes die and come."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch

from ollm_widgets.cluster.client.wanting import wanted_of
from ollm_widgets.cluster.cluster import Cluster
from ollm_widgets.errors import HostLostError, OllmError
from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig
from ollm_widgets.runtime.loader import RuntimeLoader
from tests.cluster.tiny import text_of

if TYPE_CHECKING:
    from ollm_widgets.cluster.messages import ClusterView
    from ollm_widgets.runtime.completion import Delta
    from ollm_widgets.runtime.interface import Runtime
    from tests.cluster.on_ray.real_ray import Hosts, RealRay

pytest.importorskip("ray")

from tests.cluster.on_ray.real_ray import NODES, until

Kind = Literal["stream", "complete", "generate"]
# How a request ends that nobody wants any more.
Leaving = Literal["", "cancelled", "closed"]

SEED = 20
REQUESTS, THREADS, NOTEBOOKS = 200, 8, 2
PATIENCE_S = 120.0
MOST_A_NODE = 2
# It has to be on two nodes; each of the others is on one.
COPIED = 0
PROMPTS = ((5, 17, 99, 23, 42), (7, 3), (120, 64, 64, 11, 90, 2, 31, 77))
LENGTHS = (1, 9, 33, 64)
# Of an answer that nobody waits for so many tokens are compared.
COMPARED, ENDLESS = max(LENGTHS), 30_000
# What is under way when a node dies, three times.
MOST_LOST = 3 * THREADS


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks, and after how many pieces, or tenths of a second, it is not wanted."""

    kind: Kind
    model: int
    prompt: int
    new_tokens: int
    leaving: Leaving = ""
    after: int = 0


@dataclass(slots=True)
class Outcome:
    """What has come of it."""

    request: Request
    pieces: list[Delta] = field(default_factory=list)
    text: str = ""
    new_tokens: int = 0
    finish_reason: str | None = None
    ids: list[int] = field(default_factory=list)
    error: OllmError | None = None


class Truth:
    """What transformers itself says to each prompt, greedily."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._ids = [list(_answers(folder)) for folder in folders]

    def check(self, outcome: Outcome) -> None:
        """Compare an answer with it as far as it goes; nothing may have come twice."""
        request = outcome.request
        expected = self._ids[request.model][request.prompt]
        if request.kind == "generate":
            prompt = list(PROMPTS[request.prompt])
            assert outcome.ids[: len(prompt)] == prompt
            new = outcome.ids[len(prompt) :]
            assert new[:COMPARED] == expected[: len(new)]
            assert request.leaving or len(new) == request.new_tokens
            return
        ends = {"": "length", "cancelled": "cancelled", "closed": None}
        assert outcome.finish_reason == ends[request.leaving]
        assert request.leaving or outcome.new_tokens == request.new_tokens
        compared = min(outcome.new_tokens, COMPARED)
        right = text_of(self._folders[request.model], expected[:compared]).split()
        said = outcome.text.split()[: len(right)]
        # A piece that was read last may keep a word back that is not finished yet.
        assert said == (right[: len(said)] if request.leaving == "closed" else right)
        counts = [piece.new_tokens for piece in outcome.pieces]
        assert counts == sorted(counts)
        assert all(piece.finish_reason is None for piece in outcome.pieces[:-1])


class Storm:
    """Asks all the while, and looks at the cluster whenever something is waited for.

    Parameters
    ----------
    nodes
        Which it kills and adds.
    watcher
        Another client, which only looks.
    notebooks
        Runtimes of all models, of each client that asks.
    """

    def __init__(
        self, nodes: RealRay, watcher: Cluster, notebooks: Sequence[Sequence[Runtime]]
    ) -> None:
        self._nodes = nodes
        self._watcher = watcher
        self._notebooks = notebooks
        self._pool = ThreadPoolExecutor(THREADS)
        self._asked: list[Future[Outcome]] = []
        self._killed: set[str] = set()

    def begin(self, requests: Sequence[Request]) -> None:
        """Ask in this order, `THREADS` at a time, the notebooks in turns."""
        for number, request in enumerate(requests):
            runtime = self._notebooks[number % len(self._notebooks)][request.model]
            self._asked.append(self._pool.submit(ask, runtime, request))

    def end(self) -> list[Outcome]:
        """Wait for all."""
        outcomes = [asked.result(PATIENCE_S) for asked in self._asked]
        self._pool.shutdown()
        return outcomes

    def look(self) -> ClusterView:
        """Look at the cluster; whenever that is, its books agree with themselves."""
        view = self._watcher.view()
        assert view.reservations == sum(sum(host.in_flight.values()) for host in view.hosts)
        for host in view.hosts:
            assert sum(copy.state != "leaving" for copy in host.held) <= MOST_A_NODE, host
        return view

    def until(self, is_so: Callable[[ClusterView], object]) -> None:
        """Look until something is so."""
        until(lambda: is_so(self.look()), PATIENCE_S)

    def until_ended(self, count: int) -> None:
        """Wait until so many requests have ended."""
        self.until(lambda _view: sum(asked.done() for asked in self._asked) >= count)

    def until_all_nodes(self) -> None:
        """Wait until those that were killed are forgotten, and each node has a host that serves."""
        self.until(
            lambda view: (
                not self._killed & {host.host for host in view.hosts}
                and sorted(host.node for host in view.hosts if host.free_bytes) == [*NODES]
            )
        )

    def kill(self, node: str) -> None:
        """Kill a node."""
        self._killed |= {host.host for host in self.look().hosts if host.node == node}
        self._nodes.kill_node(node)

    def kill_in_an_answer(self, models: Sequence[Path]) -> str:
        """Kill a node, not the head, in the midst of an answer that it alone can give.

        Returns
        -------
        str
            Which.
        """
        settings = GenerationConfig(max_new_tokens=ENDLESS)
        answers: dict[str, Any] = {}
        with ExitStack() as leaving:
            for index, model in enumerate(models):
                if index != COPIED:
                    answer = self._notebooks[0][index].stream(words(PROMPTS[0]), settings)
                    answers[key_of(model)] = leaving.enter_context(answer)
            for answer in answers.values():
                next(answer)
            node, key = next(
                (host.node, key)
                for host in self.look().hosts
                for key in host.in_flight
                if host.node != NODES[0] and key in answers
            )
            self.kill(node)
            with pytest.raises(HostLostError, match=f"Node {node} went away after") as lost:
                list(answers[key])
        assert lost.value.node == node
        return node


def test_every_request_is_answered_right_or_fails_with_its_own_error(
    three_nodes: Hosts, ray_nodes: RealRay, tiny_models: tuple[Path, ...]
) -> None:
    truth = Truth(tiny_models)
    with ExitStack() as leaving:
        watcher, *clients = (
            Cluster(ray_nodes.address, copies={str(tiny_models[COPIED]): 2})
            for _ in range(NOTEBOOKS + 1)
        )
        for client in (watcher, *clients):
            leaving.callback(client.leave)
        watcher.connect()
        storm = Storm(ray_nodes, watcher, [loaded(client, tiny_models) for client in clients])

        storm.begin(requests_of(SEED))
        storm.until_ended(20)
        first = storm.kill_in_an_answer(tiny_models)
        (second,) = set(NODES[1:]) - {first}
        storm.kill(second)
        ray_nodes.add_node(first)
        storm.until_ended(60)
        ray_nodes.add_node(second)
        storm.until_ended(130)
        storm.kill(first)
        ray_nodes.add_node(first)
        outcomes = storm.end()
        storm.until_all_nodes()

        for outcome in outcomes:
            if outcome.error is None:
                truth.check(outcome)
            else:
                check_error(outcome)
        assert len(outcomes) == REQUESTS
        assert sum(outcome.error is not None for outcome in outcomes) <= MOST_LOST
        storm.until(lambda view: view.reservations == 0)
    check_at_rest(three_nodes)


def check_at_rest(hosts: Hosts) -> None:
    """See that nothing is left of what was asked, in the books and on the hosts themselves."""
    view = hosts.view()
    assert not view.clients
    assert view.reservations == 0
    for host in view.hosts:
        assert not host.loading
        report = hosts.host("held", host.host)
        assert {copy.key for copy in report.held} == {copy.key for copy in host.held}
        for copy in report.held:
            assert not copy.busy
            assert not hosts.host("ask", host.host, copy.key, "queue")


def check_error(outcome: Outcome) -> None:
    """See that it is one of those that say what to do, and that nobody took it for an answer."""
    error = outcome.error
    assert isinstance(error, HostLostError), repr(error)
    assert error.node in NODES
    assert error.hint
    assert all(piece.finish_reason is None for piece in outcome.pieces)
    # What had not begun went on elsewhere, and only a second death has ended it.
    begun = "went away after" in str(error)
    assert begun or "before it answered" in str(error)
    if outcome.request.kind != "complete":
        assert begun == bool(outcome.pieces)


def requests_of(seed: int) -> list[Request]:
    """Draw what is asked; one in eight is not waited for."""
    draw = random.Random(seed)
    kinds: tuple[Kind, ...] = ("stream", "stream", "complete", "generate")
    leavings: tuple[Leaving, ...] = ("cancelled", "closed")
    asked = []
    for _ in range(REQUESTS):
        kind, model = draw.choice(kinds), draw.randrange(4)
        prompt, new_tokens = draw.randrange(len(PROMPTS)), draw.choice(LENGTHS)
        if draw.random() < 1 / 8:
            leaving = draw.choice(leavings) if kind == "stream" else "cancelled"
            asked.append(Request(kind, model, prompt, ENDLESS, leaving, draw.randrange(1, 6)))
        else:
            asked.append(Request(kind, model, prompt, new_tokens))
    return asked


def ask(runtime: Runtime, request: Request) -> Outcome:
    """Ask it, and note all that comes."""
    outcome = Outcome(request)
    settings = GenerationConfig(max_new_tokens=request.new_tokens)
    cancel = threading.Event()
    prompt = PROMPTS[request.prompt]
    try:
        if request.kind == "stream":
            _read(runtime, words(prompt), settings, cancel, outcome)
            return outcome
        if request.leaving:
            threading.Timer(request.after / 10, cancel.set).start()
        if request.kind == "complete":
            completion = runtime.complete(words(prompt), settings, cancel)
            outcome.text, outcome.new_tokens = completion.text, completion.new_tokens
            outcome.finish_reason = completion.finish_reason
        else:
            ids = runtime.generate(torch.tensor([prompt]), settings, cancel=cancel)
            (outcome.ids,) = ids.tolist()
    except OllmError as error:
        outcome.error = error
    return outcome


def _read(
    runtime: Runtime,
    prompt: str,
    settings: GenerationConfig,
    cancel: threading.Event,
    outcome: Outcome,
) -> None:
    request = outcome.request
    with runtime.stream(prompt, settings, cancel) as pieces:
        for piece in pieces:
            outcome.pieces.append(piece)
            outcome.text += piece.text
            outcome.new_tokens, outcome.finish_reason = piece.new_tokens, piece.finish_reason
            if request.leaving and len(outcome.pieces) == request.after:
                if request.leaving == "closed":
                    return
                cancel.set()


def _answers(folder: Path) -> Iterator[list[int]]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt in PROMPTS:
        output = model.generate(
            torch.tensor([prompt]), max_new_tokens=COMPARED, do_sample=False, pad_token_id=0
        )
        yield output[0, len(prompt) :].tolist()


def loaded(cluster: Cluster, models: Sequence[Path]) -> list[Runtime]:
    """Load all models, at the same time."""
    loader = cluster.over(RuntimeLoader())
    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(lambda model: loader.load(config_of(model)), models))


def words(ids: Sequence[int]) -> str:
    return " ".join(f"w{one}" for one in ids)


def config_of(folder: Path) -> RuntimeConfig:
    return RuntimeConfig(str(folder), device="ray", dtype="float32")


def key_of(folder: Path) -> str:
    return wanted_of(config_of(folder), "any", {}).key
