"""A session whose model is on a node of a cluster: nothing here may reach for what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest

from ollm_widgets import ConfigError, RuntimeManager, Session
from ollm_widgets.notebook.memory import list_memory, runtime_id_of
from ollm_widgets.protocol.snapshot import Snapshot
from ollm_widgets.protocol.views import view_activity, view_memory, view_plan, view_snapshot
from ollm_widgets.protocol.views.sampling import view_sampling
from tests.session.gates import GatedLoader
from tests.session.one_node import NODE, OneNode, RuntimeThere
from tests.session.tiny import LONG, CopyModel
from tests.session.waiting import choose, last_turn, settled, until


@pytest.fixture
def cluster() -> OneNode:
    return OneNode()


@pytest.fixture
def manager(cluster: OneNode, loader: GatedLoader) -> Iterator[RuntimeManager]:
    manager = RuntimeManager(loader, cluster=cluster, busy_wait_s=0.3)
    yield manager
    manager.close()
    assert cluster.left == 1


@pytest.fixture
def far(manager: RuntimeManager, copy_model: CopyModel) -> Iterator[Session]:
    """A session that talks to a model on the node."""
    session = Session(manager, LONG)
    choose(session, copy_model("tiny"))
    session.desk.edit("device", "ray")
    until(session, lambda: session.plan is not None and session.plan.node)
    session.load()
    settled(session)
    assert session.loading.state == "loaded", session.loading.error
    assert isinstance(session.runtime, RuntimeThere)
    yield session
    session.close()


def test_a_plan_that_will_know_more_in_a_moment_is_made_again_until_it_does(
    manager: RuntimeManager, cluster: OneNode, copy_model: CopyModel
) -> None:
    session = Session(manager)
    choose(session, copy_model("tiny"))
    cluster.looks = 5
    session.desk.edit("device", "ray")
    until(session, lambda: session.plan is not None and session.plan.node)
    until(session, lambda: session.plan is not None and not session.plan.provisional)
    assert cluster.looks == 0
    session.close()


def choices(session: Session) -> list[str]:
    view = view_plan(session)
    assert view is not None
    return [one.value for one in view.fields[1].choices]


def test_a_conversation_goes_on_there_as_it_does_here(far: Session) -> None:
    for question in ("w3 w4", "w5"):
        far.send(question)
        settled(far)
    assert last_turn(far).state == "done"
    assert last_turn(far).text


def test_every_part_of_the_page_can_be_drawn(far: Session) -> None:
    far.send("w3")
    settled(far)
    snapshot = view_snapshot(far, 1)
    plain = json.loads(json.dumps(msgspec.to_builtins(snapshot), allow_nan=False))
    assert msgspec.convert(plain, Snapshot) == snapshot


def test_the_shelf_says_on_which_node_it_is(far: Session) -> None:
    (item,) = view_memory(far).items
    assert (item.node, item.can_demote) == (f"on {NODE}", False)
    (row,) = list_memory(far.manager).table().rows
    assert row.remark == f"on {NODE}"


def test_a_runtime_there_is_found_by_the_reference_it_was_loaded_by(far: Session) -> None:
    assert far.config is not None
    assert runtime_id_of(far.manager, far.config.model_reference) == far.runtime_id


def test_the_plan_says_where_it_would_run_and_why(far: Session) -> None:
    view = view_plan(far)
    assert view is not None
    assert view.headline.endswith(f" on cpu of {NODE}")
    assert view.notes[0] == f"The node of the cluster is {NODE}. It has the most room."
    assert NODE in view.story
    assert not view.planning


def test_answers_there_are_not_traced_and_the_page_says_so(far: Session) -> None:
    assert view_activity(far).untraceable == f"Answers on node {NODE} are not traced."
    with pytest.raises(ConfigError, match="not traced"):
        far.activity.trace(True)


def test_what_the_models_files_say_of_sampling_is_known_here(far: Session) -> None:
    fields = {
        one.name: one.automatic
        for one in view_sampling(far.conversation.sampling, far.runtime).fields
    }
    near = Session(far.manager, LONG)
    near.choose(str(far.config.model_reference if far.config else ""))
    until(near, lambda: near.plan)
    near.load()
    settled(near)
    assert fields == {
        one.name: one.automatic
        for one in view_sampling(near.conversation.sampling, near.runtime).fields
    }
    near.close()


def test_unloading_says_that_it_was_given_up_there(far: Session) -> None:
    assert far.runtime_id is not None
    far.keeping.unload(far.runtime_id)
    until(far, lambda: not far.manager.residents())
    assert view_memory(far).effect == (
        f"Unloaded tiny: given up on {NODE}, where it leaves unless others use it."
    )


def test_the_device_of_a_cluster_can_be_chosen_where_there_is_one(far: Session) -> None:
    assert "ray" in choices(far)
    assert "auto" not in choices(far)


def test_no_device_of_a_cluster_is_offered_without_one(
    session: Session, copy_model: CopyModel
) -> None:
    session.manager.use_cluster(None)
    choose(session, copy_model("tiny"))
    assert "ray" not in choices(session)
