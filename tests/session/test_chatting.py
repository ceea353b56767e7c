from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ollm_widgets import ConfigError, GenerationConfig, RuntimeClosedError, Session
from ollm_widgets.protocol.views import view_chat, view_memory
from ollm_widgets.session.attachments import Attachment
from tests.session.gates import PATIENCE_S, TokenGate
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


def test_another_question_in_place_leaves_what_followed_on_its_branch(loaded: Session) -> None:
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
    assert answer.note.startswith("The question has 300 tokens; the model reads at most 256")
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


def test_unloading_waits_for_the_answer_that_runs(loaded: Session) -> None:
    assert loaded.runtime_id is not None
    loaded.manager.configure(busy_wait_s=PATIENCE_S)
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        loaded.keeping.unload(loaded.runtime_id)
        (item,) = view_memory(loaded).items
        assert (item.state, item.note) == ("busy", "leaves when it is idle")
        until(loaded, lambda: not loaded.conversation.busy, gate.step)
    until(loaded, lambda: loaded.runtime_id is None)
    assert last_turn(loaded).state == "done"


def test_unloading_with_force_stops_the_answer(loaded: Session) -> None:
    assert loaded.runtime_id is not None
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        loaded.keeping.unload(loaded.runtime_id, force=True)
        until(loaded, lambda: loaded.runtime_id is None and not loaded.running, gate.step)
    assert last_turn(loaded).state == "stopped"
    assert last_turn(loaded).text


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


# ---------------------------------------------------------------------- versions


def test_retry_keeps_the_answer_before_as_a_version(loaded: Session) -> None:
    loaded.send("w3 w4")
    settled(loaded)
    question, first = view_chat(loaded).turns
    loaded.send("w5")
    settled(loaded)
    longer = said(loaded)
    loaded.conversation.set_sampling("max_new_tokens", "3")
    loaded.retry(first.id)
    settled(loaded)
    again, answer = view_chat(loaded).turns
    assert again.id == question.id
    assert answer.versions == (first.id, answer.id)
    assert answer.note.startswith("at its length limit, 3 tokens")
    loaded.conversation.show(first.id)
    assert said(loaded) == longer
    loaded.conversation.show(answer.id)
    assert [turn.id for turn in view_chat(loaded).turns] == [question.id, answer.id]


def test_what_is_asked_on_a_branch_follows_that_branch_alone(loaded: Session) -> None:
    for text in ("w3", "w5"):
        loaded.send(text)
        settled(loaded)
    first = view_chat(loaded).turns[0]
    loaded.edit_turn(first.id, "w6 w7")
    settled(loaded)
    loaded.send("w8")
    settled(loaded)
    roles = [(one["role"], one["content"]) for one in loaded.conversation.messages()]
    assert [text for role, text in roles if role == "user"] == ["w6 w7", "w8"]
    loaded.conversation.show(first.id)
    asked = [one["content"] for one in loaded.conversation.messages() if one["role"] == "user"]
    assert asked == ["w3", "w5"]


def test_the_gauge_is_that_of_the_version_that_is_shown(loaded: Session) -> None:
    loaded.conversation.set_sampling("max_new_tokens", "5")
    loaded.send("w3 w4")
    settled(loaded)
    assert view_chat(loaded).context_tokens == 7
    first = last_turn(loaded).id
    loaded.conversation.set_sampling("max_new_tokens", "9")
    loaded.retry(first)
    settled(loaded)
    assert view_chat(loaded).context_tokens == 11
    loaded.conversation.show(first)
    assert view_chat(loaded).context_tokens == 7


def test_no_other_version_is_shown_while_an_answer_runs(loaded: Session) -> None:
    loaded.send("w3")
    settled(loaded)
    first = last_turn(loaded).id
    with TokenGate(loaded.runtime) as gate:
        loaded.retry(first)
        with pytest.raises(ConfigError, match="Stop it first"):
            loaded.conversation.show(first)
        loaded.conversation.stop()
        until(loaded, lambda: not loaded.running, gate.step)
    loaded.conversation.show(first)
    assert last_turn(loaded).id == first


# ---------------------------------------------------------------------- how it answers


def test_instructions_are_told_first_from_the_next_answer_on(loaded: Session) -> None:
    loaded.send("w3")
    settled(loaded)
    alone = view_chat(loaded).context_tokens
    loaded.conversation.instruct("  w7 w8 w9 \n")
    assert view_chat(loaded).instructions.text == "w7 w8 w9"
    loaded.retry(last_turn(loaded).id)
    settled(loaded)
    assert view_chat(loaded).context_tokens == alone + 3
    assert loaded.conversation.messages()[0] == {"role": "system", "content": "w7 w8 w9"}
    assert loaded.runtime is not None
    messages = loaded.conversation.messages()[:2]
    answer = loaded.runtime.complete(messages, loaded.conversation.generation)
    assert last_turn(loaded).text == answer.text


def test_a_model_that_knows_no_instructions_reads_them_before_the_first_question(
    loaded: Session,
) -> None:
    assert loaded.runtime is not None
    tokenizer = loaded.runtime.tokenizer
    assert view_chat(loaded).instructions.note == ""
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        + str(tokenizer.chat_template)
    )
    loaded.use(str(loaded.runtime_id))
    assert "put before the first question" in view_chat(loaded).instructions.note
    loaded.conversation.instruct("w7 w8")
    loaded.send("w3")
    settled(loaded)
    assert last_turn(loaded).state == "done"
    asked = loaded.runtime.complete("w7 w8\n\nw3", loaded.conversation.generation)
    assert last_turn(loaded).text == asked.text


def test_settings_apply_to_the_next_answer_and_not_to_the_one_that_runs(loaded: Session) -> None:
    with TokenGate(loaded.runtime) as gate:
        loaded.send("w3 w4")
        until(loaded, lambda: last_turn(loaded).text, gate.step)
        loaded.conversation.set_sampling("max_new_tokens", "4")
    settled(loaded)
    assert "200 tokens" in last_turn(loaded).note
    loaded.send("w5")
    settled(loaded)
    assert "4 tokens" in last_turn(loaded).note


def test_a_seed_gives_the_same_answer_again_and_exact_the_likeliest(loaded: Session) -> None:
    def answer() -> str:
        loaded.conversation.clear()
        loaded.send("w3 w4")
        settled(loaded)
        return last_turn(loaded).text

    likeliest = answer()
    loaded.conversation.apply_sampling_preset("creative")
    loaded.conversation.set_sampling("seed", "7")
    sampled = answer()
    assert sampled != likeliest
    assert answer() == sampled
    loaded.conversation.apply_sampling_preset("exact")
    assert answer() == likeliest


def test_what_is_shown_of_the_settings_is_what_applies(loaded: Session) -> None:
    def fields() -> dict[str, Any]:
        return {field.name: field for field in view_chat(loaded).sampling.fields}

    assert view_chat(loaded).sampling.summary == "Exact"
    assert fields()["max_new_tokens"].value == "200"
    assert fields()["seed"].unused
    loaded.conversation.set_sampling("temperature", "0.3")
    assert view_chat(loaded).sampling.summary == "Temperature 0.3"
    assert fields()["seed"].unused == ""
    assert [one.active for one in view_chat(loaded).sampling.presets] == [False] * 3
    loaded.conversation.set_sampling("top_p", "2")
    assert (fields()["top_p"].value, loaded.conversation.generation.top_p) == ("2", None)
    assert "up to 1" in fields()["top_p"].error
    assert loaded.runtime is not None
    assert fields()["top_k"].automatic == "50"
    loaded.runtime.model.generation_config.top_k = 20
    assert fields()["top_k"].automatic == "20, the model's"


# ---------------------------------------------------------------------- files


def test_a_text_file_goes_with_the_question_and_stays_with_it(loaded: Session) -> None:
    loaded.attach("a", "notes.txt", b"w7 w8", last=True)
    (chip,) = view_chat(loaded).tray.items
    assert (chip.name, chip.size, chip.kind) == ("notes.txt", "5 B", "text")
    loaded.send("w3")
    settled(loaded)
    shown = view_chat(loaded)
    assert shown.tray.items == ()
    assert shown.turns[0].text == "w3"
    assert [one.name for one in shown.turns[0].attachments] == ["notes.txt"]
    asked = loaded.conversation.messages()[0]["content"]
    assert "w7 w8" in asked
    loaded.edit_turn(shown.turns[0].id, "w4")
    settled(loaded)
    assert loaded.conversation.messages()[0]["content"] == asked.replace("w3", "w4")


def test_a_question_that_is_refused_leaves_its_files_where_they_are(loaded: Session) -> None:
    loaded.attach("a", "notes.txt", b"w7 w8", last=True)
    with pytest.raises(ConfigError, match="Type something"):
        loaded.send(" ")
    assert len(view_chat(loaded).tray.items) == 1


def test_a_model_that_reads_text_only_says_so_of_images(loaded: Session) -> None:
    assert "tiny takes text only." in view_chat(loaded).tray.help
    with pytest.raises(ConfigError, match="tiny takes text only") as caught:
        loaded.attach("a", "photo.png", b"\x89PNG\r\n\x1a\n...", last=True)
    assert "takes images" in caught.value.hint
    assert view_chat(loaded).tray.items == ()


def test_a_conversation_with_images_says_what_to_do_with_a_model_that_takes_none(
    loaded: Session,
) -> None:
    image = Attachment("file-1", "photo.png", "image", 9, image=b"...", thumbnail="data:,")
    loaded.conversation.tray.items = (image,)
    loaded.send("w3")
    settled(loaded)
    assert last_turn(loaded).state == "failed"
    assert "tiny takes text only" in last_turn(loaded).note
    assert "edit the question" in last_turn(loaded).note
    loaded.conversation.clear()
    loaded.send("w3")
    settled(loaded)
    assert last_turn(loaded).state == "done"


# ---------------------------------------------------------------------- at the end of the context


def test_a_conversation_that_fills_the_context_says_how_to_go_on(loaded: Session) -> None:
    loaded.send("w3 w4")
    settled(loaded)
    loaded.send("w5 " * 60)
    settled(loaded)
    assert last_turn(loaded).state == "failed"
    assert "The conversation has 261 tokens; the model reads" in last_turn(loaded).note
    assert "Start a new chat, or edit an earlier question." in last_turn(loaded).note
    # What failed is not sent again, so that a shorter question still fits.
    assert view_chat(loaded).context_tokens == 202
    loaded.send("w5")
    settled(loaded)
    shown = view_chat(loaded)
    assert shown.turns[-1].note.startswith("at its length limit")
    assert shown.context_tokens == shown.context_limit == 256


def test_a_conversation_comes_out_as_markdown_and_as_messages(loaded: Session) -> None:
    loaded.conversation.instruct("w9")
    loaded.send("w3 w4")
    settled(loaded)
    markdown = loaded.conversation.to_markdown()
    for part in ("## Instructions\n\nw9", "## You\n\nw3 w4", last_turn(loaded).text.strip()):
        assert part in markdown
    scope: dict[str, Any] = {}
    exec(loaded.conversation.to_python(), scope)
    assert scope["messages"] == loaded.conversation.messages()
    assert loaded.runtime is not None
    few = GenerationConfig(max_new_tokens=2)
    assert loaded.runtime.complete([*scope["messages"][:2]], few).new_tokens == 2
