"""Hosts on three real nodes load real models, and answer as transformers does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ollm_widgets.backends.base import LoadProgress
from ollm_widgets.cluster.messages import Described
from ollm_widgets.errors import ConfigError
from tests.cluster.tiny import PROMPT, PROMPT_IDS, answer_of, text_of, wanted

if TYPE_CHECKING:
    from tests.cluster.on_ray.real_ray import Client, Hosts

pytest.importorskip("ray")

from ray.exceptions import RayTaskError

from tests.cluster.on_ray.real_ray import until


def pieces_of(batches: object) -> list[object]:
    return [piece for batch in batches for piece in batch if not isinstance(piece, tuple)]  # type: ignore[attr-defined]


def test_a_host_loads_a_model_with_progress_and_says_what_it_has_loaded(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    route = client.route(one)
    assert route.loads
    *progress, described = client.load(route, one)
    assert progress
    assert all(isinstance(each, LoadProgress) for each in progress)
    assert isinstance(described, Described)
    assert described.plan.is_executable()
    assert described.config.dtype == "float32"
    (holder,) = (host for host in three_nodes.view().hosts if host.held)
    assert (holder.host, holder.held[0].name) == (route.host, "tiny-a")
    three_nodes.registry("release", route.reservation)


def test_a_stream_is_what_transformers_says(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    client.put(one)
    route = client.route(one)
    assert not route.loads
    batches = list(client.stream(route, one.key, PROMPT, max_new_tokens=40))
    pieces = pieces_of(batches)
    said = "".join(piece.text for piece in pieces)
    assert said == text_of(tiny_models[0], answer_of(tiny_models[0], 40))
    assert len(said.split()) > 30
    assert pieces[-1].finish_reason == "length"
    until(lambda: three_nodes.view().reservations == 0)


def test_generated_ids_are_those_of_transformers(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[1])
    client.put(one)
    route = client.route(one)
    settings = {"max_new_tokens": 12}
    (ids,) = three_nodes.host(
        "generate",
        route.host,
        route.reservation,
        one.key,
        [PROMPT_IDS],
        None,
        settings,
        client.name,
        client.name,
    )
    assert ids == PROMPT_IDS + answer_of(tiny_models[1], 12)
    until(lambda: three_nodes.view().reservations == 0)


@pytest.mark.parametrize("way", ["closed", "stopped", "abandoned"])
def test_a_stream_that_nobody_wants_any_more_ends_within_a_second(
    way: str, client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    client.put(one)
    route = client.route(one)
    stream = client.stream(route, one.key, PROMPT, max_new_tokens=30_000)
    next(stream)
    assert three_nodes.host("ask", route.host, one.key, "queue")
    began = time.monotonic()
    if way == "closed":
        stream.cancel()
    elif way == "stopped":
        assert three_nodes.host("stop", route.host, route.reservation)
        assert pieces_of(stream)[-1].finish_reason == "cancelled"
    else:
        client.leave()
    until(lambda: not three_nodes.host("ask", route.host, one.key, "queue"))
    assert time.monotonic() - began < 1
    until(lambda: three_nodes.view().reservations == 0)


def test_clients_that_want_the_same_model_share_one_load(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[2])
    first, second = client.route(one), client.route(one)
    assert first.host == second.host
    assert first.loads
    assert second.loads
    loads = [client.loading(route, one) for route in (first, second)]
    ids = {list(load)[-1].runtime_id for load in loads}
    assert len(ids) == 1
    (held,) = (host.held for host in three_nodes.view().hosts if host.held)
    assert [copy.key for copy in held] == [one.key]
    for route in (first, second):
        three_nodes.registry("release", route.reservation)


def test_a_load_that_is_left_leaves_nothing_behind(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[3])
    route = client.route(one)
    loading = client.loading(route, one)
    next(loading)
    loading.cancel()
    until(lambda: three_nodes.view().reservations == 0)
    assert client.put(one)


def test_what_leaves_for_another_model_is_what_the_registry_says(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    a, b, c = (wanted(folder) for folder in tiny_models[:3])
    others = frozenset(host.host for host in three_nodes.view().hosts[1:])
    here = three_nodes.view().hosts[0].host
    for one in (a, b):
        route = client.route(one, avoid=others)
        client.load(route, one)
        three_nodes.registry("release", route.reservation)
    # The host's own order of use knows nothing of this; the registry's does.
    three_nodes.registry("release", client.route(a, avoid=others).reservation)
    route = client.route(c, avoid=others)
    assert (route.host, route.evicts) == (here, (b.key,))
    client.load(route, c)
    three_nodes.registry("release", route.reservation)
    held = {copy.key for copy in three_nodes.host("held", here).held}
    assert held == {a.key, c.key}


def test_a_model_that_has_left_is_not_answered_for(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    client.put(one)
    route = client.route(one)
    assert three_nodes.host("unload", route.host, one.key) is not None
    with pytest.raises(RayTaskError) as failed:
        list(client.stream(route, one.key, PROMPT))
    assert failed.value.cause.code == "not-held"
    until(lambda: three_nodes.view().reservations == 0)


def test_errors_keep_their_type_and_name_the_node(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    client.put(one)
    route = client.route(one)
    with pytest.raises(RayTaskError) as failed:
        list(client.stream(route, one.key, PROMPT, max_new_tokens=-1))
    assert isinstance(failed.value.cause, ConfigError)
    assert f"On node {route.node}" in str(failed.value.cause)
    with pytest.raises(RayTaskError) as failed:
        three_nodes.host("ask", route.host, one.key, "__dict__")
    assert isinstance(failed.value.cause, ConfigError)


@pytest.mark.parametrize("what", ["memory", "kv_stats", "truth", "plan", "queue"])
def test_a_host_answers_questions_about_a_model(
    what: str, client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    host = client.put(one)
    answer = three_nodes.host("ask", host, one.key, what)
    if what == "memory":
        assert answer.host_bytes > 0
    if what == "plan":
        assert answer.is_executable()


def test_a_pinned_model_stays_when_its_host_needs_room(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    a, b, c = (wanted(folder) for folder in tiny_models[:3])
    others = frozenset(host.host for host in three_nodes.view().hosts[1:])
    for one in (a, b):
        route = client.route(one, avoid=others)
        client.load(route, one)
        three_nodes.registry("release", route.reservation)
    three_nodes.registry("pin", client.name, a.key, True)
    route = client.route(c, avoid=others)
    assert route.evicts == (b.key,)
    client.load(route, c)
    three_nodes.registry("release", route.reservation)
    assert a.key in {copy.key for copy in three_nodes.host("held", route.host).held}
