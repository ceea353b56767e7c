"""One connection for all who need it, made when it is needed and made anew when it is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ollm_widgets.cluster.client import connection as connecting
from ollm_widgets.cluster.client.calls import Calls
from ollm_widgets.cluster.client.connection import Connection
from ollm_widgets.cluster.client.deploying import NoHostsYet
from ollm_widgets.cluster.client.joining import CONNECT, attend
from ollm_widgets.cluster.options import ClusterOptions
from ollm_widgets.errors import Cancelled, ClusterUnavailableError

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress
    from ollm_widgets.cluster.client.link import Link
    from tests.cluster.on_ray.real_ray import Hosts, RealRay

pytest.importorskip("ray")

from tests.cluster.on_ray.real_ray import until

PATIENCE_S = 60.0


@pytest.fixture
def connection(three_nodes: Hosts, ray_nodes: RealRay) -> Iterator[Connection]:
    connection = Connection(ClusterOptions(address=ray_nodes.address))
    yield connection
    link = connection.link
    if link is not None:
        connection.post.ask(link.registry("leave", link.client))
    connection.close()


def test_all_who_come_at_once_share_one_connection(
    connection: Connection, three_nodes: Hosts
) -> None:
    links: list[Link] = []
    threads = [threading.Thread(target=lambda: links.append(connection.open())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(links) == 8
    assert len(set(links)) == 1
    assert three_nodes.view().clients == (links[0].client,)
    assert connection.link is links[0]


def test_it_says_what_it_does_and_can_be_left(connection: Connection) -> None:
    told: list[str] = []
    cancel = threading.Event()

    def progress(one: LoadProgress) -> None:
        told.append(one.stage)
        cancel.set()

    with pytest.raises(Cancelled):
        connection.open(progress, cancel)
    assert told == [CONNECT]
    # What had begun went on.
    assert connection.open(timeout_s=PATIENCE_S) is connection.link


@pytest.mark.smoke
def test_a_lost_one_is_made_anew(connection: Connection, three_nodes: Hosts) -> None:
    first = connection.open()
    connection.lost(first)
    assert connection.link is None
    second = connection.open()
    assert second.client != first.client
    connection.lost(first)
    assert connection.link is second
    connection.post.ask(second.registry("leave", first.client))
    assert three_nodes.view().clients == (second.client,)


@pytest.mark.smoke
def test_who_leaves_while_it_is_being_connected_is_not_there_afterwards(
    connection: Connection, three_nodes: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(connection)
    came: list[bool] = []
    attended = threading.Event()

    def attend_after_the_goodbye(*args: Any) -> Link:
        calls.leave()
        link = attend(*args)
        came.append(link.client in three_nodes.view().clients)
        attended.set()
        return link

    monkeypatch.setattr(connecting, "attend", attend_after_the_goodbye)
    with pytest.raises(Cancelled, match="was left"):
        connection.open()
    assert attended.wait(PATIENCE_S)
    assert came == [True]
    until(lambda: not three_nodes.view().clients)
    assert connection.link is None


def test_a_lost_one_that_nobody_makes_anew_is_not_there_after_the_goodbye(
    connection: Connection, three_nodes: Hosts
) -> None:
    connection.lost(connection.open())
    assert len(three_nodes.view().clients) == 1
    connection.close()
    until(lambda: not three_nodes.view().clients)


def test_a_process_that_is_connected_elsewhere_is_told_so_at_once(
    connection: Connection, ray_nodes: RealRay
) -> None:
    connection.open()
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        elsewhere = f"127.0.0.1:{somebody.getsockname()[1]}"
        with pytest.raises(ClusterUnavailableError, match=f"cluster at {ray_nodes.address} alr"):
            Connection(ClusterOptions(address=elsewhere)).open()
    with pytest.raises(ClusterUnavailableError, match=f"nothing listens at {elsewhere}"):
        Connection(ClusterOptions(address=elsewhere)).open()


def test_hosts_that_nobody_has_started_are_not_started_by_who_only_looks(
    three_nodes: Hosts, ray_nodes: RealRay
) -> None:
    looking = Connection(ClusterOptions(address=ray_nodes.address, name="nobody"))
    with pytest.raises(NoHostsYet):
        looking.open(starts=False, timeout_s=PATIENCE_S)
    assert looking.link is None
    looking.close()


def test_a_connection_of_somebody_else_stays_when_it_is_closed(
    connection: Connection, three_nodes: Hosts
) -> None:
    import ray

    link = connection.open()
    connection.post.ask(link.registry("leave", link.client))
    connection.close()
    assert connection.link is None
    assert ray.is_initialized()
    assert not three_nodes.view().clients
