"""The registry on a real cluster: who is there, who is gone, and what each of them held."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ollm_widgets.cluster.messages import PROTOCOL
from ollm_widgets.errors import (
    ClusterBusyError,
    ClusterUnavailableError,
    ConfigError,
    PlanNotExecutableError,
)
from ollm_widgets.planning.config import RuntimeConfig
from tests.cluster.tiny import PROMPT, wanted

pytest.importorskip("ray")

from ray.exceptions import RayActorError, RayTaskError

from ollm_widgets.cluster.client.wanting import wanted_of
from ollm_widgets.cluster.options import ClusterOptions
from tests.cluster.on_ray.real_ray import NODES, Client, deploy, until

if TYPE_CHECKING:
    from tests.cluster.on_ray.real_ray import Hosts, RealRay


def test_a_client_of_another_protocol_is_told_so(three_nodes: Hosts) -> None:
    from ollm_widgets.cluster.servers.presence import be_present

    with pytest.raises(RayTaskError) as failed:
        three_nodes.registry("attend", "an old one", PROTOCOL + 1, be_present())
    assert isinstance(failed.value.cause, ClusterUnavailableError)
    assert "an old one" not in three_nodes.view().clients


def test_the_first_of_the_offers_is_where_a_request_goes(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one, other = wanted(tiny_models[0]), wanted(tiny_models[1])
    for _ in NODES[1:]:
        route = client.route(other, adds=True)
        client.load(route, other)
        three_nodes.registry("release", route.reservation)
    offers = three_nodes.registry("offers", one)
    assert {node for _host, node, _offer, _why in offers} == set(NODES)
    assert three_nodes.view().reservations == 0
    host, node, offer, why = offers[0]
    assert offer.runs
    assert offer.fits
    assert offer.needed_bytes > 0
    assert node in why
    assert client.put(one) == host
    # By now it is the plan of what is in memory there.
    again = three_nodes.registry("offers", one)[0]
    assert again[0] == host
    assert again[2].plan.model_path == tiny_models[0]


def test_what_can_never_run_is_refused_in_the_words_of_the_nodes(
    client: Client, tmp_path: Path
) -> None:
    absent = wanted(tmp_path / "absent")
    with pytest.raises(RayTaskError) as failed:
        client.route(absent)
    assert isinstance(failed.value.cause, PlanNotExecutableError)
    wrong = wanted_of(RuntimeConfig("x", device="ray", dtype="float7"), "x", {})  # type: ignore[arg-type]
    with pytest.raises(RayTaskError) as failed:
        client.route(wrong)
    assert isinstance(failed.value.cause, ConfigError)


def test_full_hosts_are_busy_for_a_while(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    for folder in tiny_models[:2]:
        one = wanted(folder)
        for _ in NODES:
            route = client.route(one, adds=True)
            client.load(route, one)
            three_nodes.registry("release", route.reservation)
        three_nodes.registry("pin", client.name, one.key, True)
    with pytest.raises(RayTaskError) as failed:
        client.route(wanted(tiny_models[2]))
    assert isinstance(failed.value.cause, ClusterBusyError)
    assert failed.value.cause.retry_after_s > 0


def test_a_model_that_shall_be_on_two_hosts_comes_to_a_second_one_by_itself(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0], copies=2)
    three_nodes.registry("claim", client.name, one)
    client.put(one)

    def holding() -> int:
        return sum(bool(host.held) for host in three_nodes.view().hosts)

    client.put(one)
    until(lambda: holding() == 2)
    client.put(one)
    until(lambda: three_nodes.view().reservations == 0)
    assert holding() == 2


def test_a_host_that_dies_is_dropped_once_with_all_it_had(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    host = client.put(one)
    route = client.route(one)
    stream = client.stream(route, one.key, PROMPT, max_new_tokens=30_000)
    next(stream)
    lost = three_nodes.view().lost
    os.kill(three_nodes.pid(host), signal.SIGKILL)
    with pytest.raises(RayActorError):
        list(stream)
    calls = [three_nodes.registry_later("lost", host, "It was killed.") for _ in range(5)]
    assert all(call.result(timeout_s=30) for call in calls)
    view = three_nodes.view()
    assert host not in {each.host for each in view.hosts}
    assert view.lost == (*lost, (route.node, "It was killed."))
    assert view.reservations == 0
    assert not three_nodes.registry("release", route.reservation)
    # The next request goes elsewhere; Serve starts another host meanwhile.
    assert client.put(one) != host


def test_without_hosts_a_request_learns_so_and_a_call_has_serve_start_one(
    ray_nodes: RealRay, deployed: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    from ray import serve

    none = deploy(ClusterOptions(address=ray_nodes.address, name="none", hosts=(0, 1)), 0)
    try:
        client, one = Client(none), wanted(tiny_models[0])
        assert none.registry("offers", one) == ()
        with pytest.raises(RayTaskError) as failed:
            client.route(one)
        assert failed.value.cause.code == "no-hosts"
        none.host("wake", None)
        none.settle(1)
        assert client.route(one).loads
    finally:
        serve.delete("none", _blocking=False)
    # They have no part in each other.
    assert client.name not in deployed.view().clients


def test_a_registry_that_is_restarted_knows_the_hosts_again(
    client: Client, three_nodes: Hosts, tiny_models: tuple[Path, ...]
) -> None:
    one = wanted(tiny_models[0])
    host = client.put(one)
    three_nodes.restart_registry()
    three_nodes.settle(len(NODES))
    view = three_nodes.view()
    held = {each.host: [copy.key for copy in each.held] for each in view.hosts}
    assert held[host] == [one.key]
    assert not view.clients
    assert not view.lost
    assert view.reservations == 0
    with pytest.raises(RayTaskError) as failed:
        client.route(one)
    assert failed.value.cause.code == "unknown-client"
    newcomer = Client(three_nodes)
    assert newcomer.put(one) == host
    newcomer.leave()
