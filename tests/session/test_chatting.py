from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from ollm_widgets import ConfigError, RuntimeClosedError, Session
from ollm_widgets.protocol.views import view_chat
from tests.session.gates import TokenGate
from tests.session.tiny import CopyModel
from tests.session.waiting import last_turn, load, settled, until


@pytest.fixture
def loaded(session: Session, copy_model: CopyModel) -> Session:
    load(session, copy_model("tiny"))
    return session


def said(session: Session) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in session.conversation.transcript.turns]


def test_an_answer_streams_and_ends_with_its_figures(loaded: Session) -> None:
    loaded.send("w3 w4")
    assert view_chat(loaded).busy
    settled(loaded)
    question, answer = view_chat(loaded).turns
    assert (question.speaker, question.text, question.state) == ("you", "w3 w4", "done")
    assert answer.speaker == "model"
    assert answer.state == "done"
    assert "200 tokens" in answer.note
    assert loaded.runtime is not None
    assert answer.text == loaded.runtime.complete("w3 w4", loaded.conversation.generation).text
    shown = view_chat(loaded)
    assert (shown.context_tokens, shown.context_limit) == (202, 256)
    assert shown.can_send


def test_stop_keeps_the_text_so_far_and_the_next_question_works(loaded: Session) -> None:
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        loaded.conversation.stop()
        until(loaded, lambda: last_turn(loaded).state != "streaming", gate.step)
    answer = last_turn(loaded)
    assert answer.state == "stopped"
    assert answer.note.startswith("stopped, ")
    text = answer.text
    loaded.send("w5")
    settled(loaded)
    assert said(loaded)[:3] == [("you", "w3 w4"), ("model", text), ("you", "w5")]
    assert last_turn(loaded).state == "done"
    assert last_turn(loaded).text


def test_an_answer_can_be_stopped_before_its_first_token(loaded: Session) -> None:
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        assert last_turn(loaded).state == "waiting"
        loaded.conversation.stop()
        until(loaded, lambda: not loaded.running, gate.step)
    assert last_turn(loaded).state == "stopped"


def test_stopping_nothing_changes_nothing(loaded: Session) -> None:
    loaded.conversation.stop()
    loaded.send("w3")
    settled(loaded)
    assert last_turn(loaded).state == "done"


def test_a_second_question_carries_the_first_exchange(loaded: Session) -> None:
    loaded.send("w3 w4")
    settled(loaded)
    alone = view_chat(loaded).context_tokens
    loaded.send("w5")
    settled(loaded)
    assert len(said(loaded)) == 4
    assert view_chat(loaded).context_tokens > alone


def test_an_empty_question_and_a_second_one_at_once_are_refused(loaded: Session) -> None:
    with pytest.raises(ConfigError, match="Type something"):
        loaded.send(" \n")
    with TokenGate(loaded.runtime):
        loaded.send("w3")
        for again in (
            lambda: loaded.send("w4"),
            lambda: loaded.retry(last_turn(loaded).id),
            lambda: loaded.edit_turn(loaded.conversation.transcript.turns[0].id, "w4"),
        ):
            with pytest.raises(ConfigError, match="Stop it first"):
                again()
    settled(loaded)
    assert [text for speaker, text in said(loaded) if speaker == "you"] == ["w3"]


def test_retry_answers_the_same_question_in_place(loaded: Session) -> None:
    loaded.send("w3 w4")
    settled(loaded)
    first = said(loaded)
    loaded.send("w5")
    settled(loaded)
    loaded.retry(loaded.conversation.transcript.turns[1].id)
    settled(loaded)
    assert said(loaded) == first


def test_another_question_in_place_drops_what_followed(loaded: Session) -> None:
    for text in ("w3 w4", "w5"):
        loaded.send(text)
        settled(loaded)
    loaded.edit_turn(loaded.conversation.transcript.turns[0].id, "w6 w7")
    settled(loaded)
    assert [text for speaker, text in said(loaded) if speaker == "you"] == ["w6 w7"]
    assert last_turn(loaded).state == "done"


@pytest.mark.parametrize("turn_id", ["turn-99", "turn-1", ""])
def test_retrying_what_is_no_answer_is_refused(loaded: Session, turn_id: str) -> None:
    loaded.send("w3")
    settled(loaded)
    before = said(loaded)
    with pytest.raises(ConfigError, match="is no turn of this conversation"):
        loaded.retry(turn_id)
    assert said(loaded) == before


def test_a_prompt_longer_than_the_context_fails_in_its_turn_and_the_next_works(
    loaded: Session,
) -> None:
    loaded.send("w3 " * 300)
    settled(loaded)
    answer = last_turn(loaded)
    assert answer.state == "failed"
    assert "reads at most 256" in answer.note
    assert "Shorten it" in answer.note
    assert view_chat(loaded).can_send
    loaded.send("w3")
    settled(loaded)
    assert last_turn(loaded).state == "done"


def test_a_failed_answer_can_be_asked_again_in_other_words(loaded: Session) -> None:
    loaded.send("w3 " * 300)
    settled(loaded)
    loaded.edit_turn(loaded.conversation.transcript.turns[0].id, "w3")
    settled(loaded)
    assert len(said(loaded)) == 2
    assert last_turn(loaded).state == "done"


def test_whatever_a_library_raises_ends_in_the_turn(loaded: Session) -> None:
    assert loaded.runtime is not None

    def break_down(_model: object, _args: object) -> None:
        raise ZeroDivisionError("in the model")

    hook = loaded.runtime.model.register_forward_pre_hook(break_down)
    loaded.send("w3")
    settled(loaded)
    assert last_turn(loaded).note == "ZeroDivisionError: in the model"
    hook.remove()
    loaded.retry(last_turn(loaded).id)
    settled(loaded)
    assert last_turn(loaded).state == "done"


def test_clear_begins_a_conversation_without_the_figures_of_the_last(loaded: Session) -> None:
    loaded.send("w3 w4")
    settled(loaded)
    loaded.conversation.clear()
    shown = view_chat(loaded)
    assert (shown.turns, shown.status, shown.context_tokens) == ((), "", 0)
    assert shown.hint == "Ask tiny something"
    loaded.send("w3 w4")
    settled(loaded)
    assert view_chat(loaded).context_tokens == 202


def test_clear_during_an_answer_forgets_it_and_the_next_question_works(loaded: Session) -> None:
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        forgotten = last_turn(loaded)
        loaded.conversation.clear()
        until(loaded, lambda: forgotten.state != "streaming", gate.step)
    shown = view_chat(loaded)
    assert (shown.turns, shown.context_tokens, shown.busy) == ((), 0, False)
    loaded.send("w5")
    settled(loaded)
    assert [turn.state for turn in view_chat(loaded).turns] == ["done", "done"]


def test_a_turn_of_a_cleared_conversation_is_no_turn_of_the_next(loaded: Session) -> None:
    loaded.send("w3")
    settled(loaded)
    old = last_turn(loaded).id
    loaded.conversation.clear()
    loaded.send("w4")
    settled(loaded)
    with pytest.raises(ConfigError, match="another view"):
        loaded.retry(old)
    assert said(loaded)[0] == ("you", "w4")


def test_without_a_model_nothing_can_be_asked(session: Session) -> None:
    for ask in (
        lambda: session.send("w3"),
        lambda: session.retry("turn-2"),
        lambda: session.edit_turn("turn-1", "w3"),
    ):
        with pytest.raises(RuntimeClosedError, match="Press Load first"):
            ask()
    assert view_chat(session).turns == ()


def test_unloading_stops_the_answer_first(loaded: Session) -> None:
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        assert loaded.runtime_id is not None
        loaded.unload(loaded.runtime_id)
        until(loaded, lambda: loaded.runtime_id is None, gate.step)
    settled(loaded)
    assert last_turn(loaded).state == "stopped"


def test_a_model_unloaded_by_force_ends_the_answer_and_keeps_its_text(loaded: Session) -> None:
    assert loaded.runtime_id is not None
    with ThreadPoolExecutor(1) as pool, TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        pool.submit(loaded.manager.unload, loaded.runtime_id, force=True)
        until(loaded, lambda: loaded.runtime_id is None and not loaded.running, gate.step)
    assert last_turn(loaded).state == "stopped"
    assert last_turn(loaded).text
    with pytest.raises(RuntimeClosedError):
        loaded.send("w3")


def test_the_conversation_goes_on_with_another_runtime(
    loaded: Session, copy_model: CopyModel
) -> None:
    loaded.send("w3 w4")
    settled(loaded)
    load(loaded, copy_model("other"))
    loaded.send("w5")
    settled(loaded)
    assert len(said(loaded)) == 4
    assert last_turn(loaded).state == "done"
