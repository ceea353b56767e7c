"""Two conversations with two models, where there is room for one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ollm_widgets import ConfigError, RuntimeClosedError, RuntimeManager, Session
from ollm_widgets.protocol.views import view_chat, view_loading, view_memory, view_plan
from ollm_widgets.render.units import format_memory
from tests.session.gates import PATIENCE_S, GatedLoader, TokenGate
from tests.session.tiny import LONG, CopyModel
from tests.session.waiting import choose, last_turn, load, settled, until


@pytest.fixture
def narrow(loader: GatedLoader) -> Iterator[RuntimeManager]:
    """A manager with room for one model."""
    manager = RuntimeManager(loader, max_loaded=1, busy_wait_s=PATIENCE_S)
    yield manager
    loader.open()
    manager.unload_all(force=True)


@pytest.fixture
def chats(narrow: RuntimeManager) -> Iterator[tuple[Session, Session]]:
    sessions = Session(narrow, LONG), Session(narrow, LONG)
    yield sessions
    for session in sessions:
        session.close()


def test_the_second_waits_for_the_answer_of_the_first_and_then_loads(
    chats: tuple[Session, Session], copy_model: CopyModel
) -> None:
    one, other = chats
    load(one, copy_model("a"))
    with TokenGate(one.runtime) as gate:
        one.send("w3 w4")
        until(one, lambda: last_turn(one).text, gate.step)
        choose(other, copy_model("b"))
        other.load()
        until(other, lambda: view_loading(other).summary)
        assert view_loading(other).summary == "Waits for a, which is answering."
        shelf = view_memory(other)
        assert [(item.name, item.state) for item in shelf.items] == [
            ("a", "busy"),
            ("b", "waiting"),
        ]
        assert shelf.items[1].note == "waits for a, which is answering"
        assert last_turn(one).state == "streaming"
    until(other, lambda: other.loading.state == "loaded")
    assert re.fullmatch(r"b was loaded in .*s, after .*s of waiting\.", view_loading(other).summary)
    assert last_turn(one).state == "done"
    assert [item.name for item in view_memory(other).items] == ["b"]


def test_the_plan_says_who_would_make_room_and_no_longer_once_it_is_loaded(
    chats: tuple[Session, Session], copy_model: CopyModel
) -> None:
    one, other = chats
    load(one, copy_model("a"))
    choose(other, copy_model("b"))
    plan = view_plan(other)
    assert plan is not None
    assert re.fullmatch(r"a \(.* RAM\) is idle and would make room for it\.", plan.notes[0])
    other.load()
    until(other, lambda: other.loading.state == "loaded")
    assert other.desk.room == ()


def test_a_load_that_waits_can_be_cancelled_and_disturbs_nobody(
    chats: tuple[Session, Session], copy_model: CopyModel
) -> None:
    one, other = chats
    load(one, copy_model("a"))
    with TokenGate(one.runtime) as gate:
        one.send("w3 w4")
        until(one, lambda: last_turn(one).text, gate.step)
        choose(other, copy_model("b"))
        other.load()
        until(other, lambda: view_loading(other).summary.startswith("Waits"))
        other.cancel_load()
        until(other, lambda: other.loading.state == "cancelled")
        until(other, lambda: [item.name for item in view_memory(other).items] == ["a"])
    settled(one)
    assert last_turn(one).state == "done"


def test_a_model_that_was_evicted_comes_back_with_one_click_and_the_talk_goes_on(
    chats: tuple[Session, Session], copy_model: CopyModel
) -> None:
    one, other = chats
    load(one, copy_model("a"))
    one.send("w3 w4")
    settled(one)
    load(other, copy_model("b"))
    until(one, lambda: one.runtime_id is None)
    shown = view_chat(one)
    assert shown.gone == "a left memory to make room for b."
    assert shown.can_reload
    assert not shown.can_send
    assert len(shown.turns) == 2

    one.reload()
    assert not view_chat(one).can_reload
    until(one, lambda: one.loading.state == "loaded")
    assert one.runtime is not None
    assert one.runtime.name == "a"
    assert view_chat(one).gone == ""
    one.send("w5")
    settled(one)
    assert len(one.conversation.transcript.turns) == 4
    assert view_chat(other).gone == "b left memory to make room for a."


def test_what_is_loaded_again_is_loaded_as_it_was(
    chats: tuple[Session, Session], copy_model: CopyModel
) -> None:
    one, other = chats
    choose(one, copy_model("a"))
    one.desk.edit("context_tokens", "64")
    until(one, lambda: one.plan is not None and one.plan.config.context_tokens == 64)
    one.load()
    until(one, lambda: one.loading.state == "loaded")
    load(other, copy_model("b"))
    choose(one, copy_model("c"))
    one.reload()
    until(one, lambda: one.loading.state == "loaded")
    assert one.runtime is not None
    assert one.runtime.name == "a"
    assert one.runtime.config.context_tokens == 64
    assert one.config is not None
    assert one.config.context_tokens == 64


def test_only_what_has_left_can_be_loaded_again(
    chats: tuple[Session, Session], loader: GatedLoader, copy_model: CopyModel
) -> None:
    one, other = chats
    with pytest.raises(RuntimeClosedError, match="left memory"):
        one.reload()
    load(one, copy_model("a"))
    with pytest.raises(RuntimeClosedError, match="left memory"):
        one.reload()
    load(other, copy_model("b"))
    loader.hold()
    one.reload()
    with pytest.raises(ConfigError, match="a is being loaded"):
        one.reload()
    loader.open()
    until(one, lambda: one.loading.state == "loaded")


def test_the_history_tells_who_made_room_for_whom_in_bytes(
    chats: tuple[Session, Session], narrow: RuntimeManager, copy_model: CopyModel
) -> None:
    one, other = chats
    load(one, copy_model("a"))
    assert one.runtime is not None
    held_bytes = one.runtime.memory().host_bytes
    load(other, copy_model("b"))
    (evicted,) = [event for event in narrow.history() if event.kind == "evicted"]
    assert evicted.change is not None
    assert evicted.change.freed_host_bytes == held_bytes
    text = f"Evicted a for b: {format_memory(held_bytes)} of RAM freed."
    shelf = view_memory(other)
    assert shelf.effect == text
    assert text in [event.text for event in shelf.history]
    assert shelf.history[0].text == "Loaded b."


def test_a_question_says_how_many_answers_come_before_its_own(
    manager: RuntimeManager, copy_model: CopyModel
) -> None:
    chats = [Session(manager, LONG) for _three in range(3)]
    for session in chats:
        load(session, copy_model("a"))
    first, second, third = chats
    with TokenGate(first.runtime) as gate:
        first.send("w3")
        until(first, lambda: last_turn(first).text, gate.step)
        for number, session in enumerate((second, third), 1):
            session.send("w4")
            expected = f"{number} answer{'s' if number > 1 else ''} before this one"
            until(session, lambda: view_chat(session).turns[-1].note == expected)  # noqa: B023
        (item,) = view_memory(third).items
        assert [one.running for one in item.queue] == [True, False, False]
        assert [one.caller for one in item.queue][-1] == "this chat"
        assert len({one.caller for one in item.queue}) == 3
        third.conversation.stop()
        until(third, lambda: last_turn(third).state == "stopped")
        assert len(view_memory(third).items[0].queue) == 2
    for session in chats:
        settled(session)
        session.close()
    assert last_turn(second).state == "done"
