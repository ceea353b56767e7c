from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ollm_widgets import ConfigError
from ollm_widgets.session.attachments import Attachment
from ollm_widgets.session.transcript import Transcript, Turn


def answered(transcript: Transcript, question: str, *pieces: str) -> Turn:
    answer = transcript.ask(question)
    answer.pieces.extend(pieces)
    answer.state = "done"
    return answer


def pairs(transcript: Transcript) -> list[tuple[str, str]]:
    return [(one.role, one.text) for one in transcript.said()]


def texts(transcript: Transcript) -> list[str]:
    return [turn.text for turn in transcript.turns]


def test_the_messages_are_the_exchanges_and_the_open_question() -> None:
    transcript = Transcript()
    answered(transcript, "one", "a", "b")
    transcript.ask("two")
    assert pairs(transcript) == [("user", "one"), ("assistant", "ab"), ("user", "two")]


def test_an_answer_that_was_stopped_stays_in_the_messages() -> None:
    transcript = Transcript()
    answered(transcript, "one", "half an").state = "stopped"
    assert pairs(transcript) == [("user", "one"), ("assistant", "half an")]


@pytest.mark.parametrize("state", ["stopped", "done", "failed"])
def test_an_empty_answer_is_left_out_with_its_question(state: str) -> None:
    transcript = Transcript()
    transcript.ask("one").state = state  # type: ignore[assignment]
    transcript.ask("two")
    assert pairs(transcript) == [("user", "two")]


def test_an_answer_that_failed_midway_is_left_out_with_its_question() -> None:
    transcript = Transcript()
    answered(transcript, "one", "half").state = "failed"
    transcript.ask("two")
    assert pairs(transcript) == [("user", "two")]


def test_answering_again_keeps_the_question_and_adds_a_version_of_the_answer() -> None:
    transcript = Transcript()
    first = answered(transcript, "one", "a")
    answered(transcript, "two", "b")
    again = transcript.answer_again(first.id)
    assert texts(transcript) == ["one", ""]
    assert pairs(transcript) == [("user", "one")]
    assert transcript.versions(again) == (first.id, again.id)
    assert transcript.versions(transcript.turns[0]) == (transcript.turns[0].id,)


def test_asking_instead_adds_a_version_of_the_question_with_its_files() -> None:
    transcript = Transcript()
    answered(transcript, "one", "a")
    file = Attachment("file-1", "notes.txt", "text", 3, "abc")
    transcript.ask("two", (file,)).state = "done"
    old = transcript.turns[2]
    answered(transcript, "three", "c")
    transcript.ask_instead(old.id, "other")
    assert texts(transcript) == ["one", "a", "other", ""]
    assert transcript.turns[2].attachments == (file,)
    assert transcript.versions(transcript.turns[2]) == (old.id, transcript.turns[2].id)


def test_a_version_comes_back_with_what_followed_it() -> None:
    transcript = Transcript()
    first = answered(transcript, "one", "a")
    answered(transcript, "two", "b")
    answered(transcript, "three", "c")
    again = transcript.answer_again(first.id)
    again.pieces, again.state = ["other a"], "done"
    answered(transcript, "four", "d")
    transcript.show(first.id)
    assert texts(transcript) == ["one", "a", "two", "b", "three", "c"]
    transcript.show(again.id)
    assert texts(transcript) == ["one", "other a", "four", "d"]


def test_a_turn_on_another_branch_is_shown_with_what_leads_to_it() -> None:
    transcript = Transcript()
    first = answered(transcript, "one", "a")
    deep = answered(transcript, "two", "b")
    transcript.answer_again(first.id).state = "done"
    transcript.show(deep.id)
    assert texts(transcript) == ["one", "a", "two", "b"]


def test_the_context_is_that_of_what_is_shown() -> None:
    transcript = Transcript()
    first = answered(transcript, "one", "a")
    first.context_tokens = 10
    second = answered(transcript, "two", "b")
    second.context_tokens = 30
    transcript.answer_again(first.id)
    assert transcript.context_tokens == 0
    transcript.show(second.id)
    assert transcript.context_tokens == 30


def test_a_turn_that_is_not_shown_cannot_be_changed() -> None:
    transcript = Transcript()
    old = answered(transcript, "one", "a")
    transcript.answer_again(old.id)
    with pytest.raises(ConfigError, match="no turn of this conversation"):
        transcript.answer_again(old.id)
    with pytest.raises(ConfigError, match="no turn of this conversation"):
        transcript.show("turn-99")


def test_a_turn_of_the_other_speaker_is_refused() -> None:
    transcript = Transcript()
    answer = answered(transcript, "one", "a")
    with pytest.raises(ConfigError, match="is no turn") as caught:
        transcript.answer_again(transcript.turns[0].id)
    assert "another view" in caught.value.hint
    with pytest.raises(ConfigError):
        transcript.ask_instead(answer.id, "two")
    assert texts(transcript) == ["one", "a"]


class Conversations(RuleBasedStateMachine):
    """Any order of asking, answering, asking anew and showing versions."""

    @initialize()
    def begin(self) -> None:
        self.transcript = Transcript()
        self.said: dict[str, tuple[str, str | None]] = {}  # text, and what it follows

    def _open(self) -> bool:
        turns = self.transcript.turns
        return bool(turns) and turns[-1].state == "waiting"

    def _note(self, *turns: Turn) -> None:
        for turn in turns:
            assert turn.id not in self.said
            index = self.transcript.turns.index(turn)
            before = self.transcript.turns[index - 1].id if index else None
            self.said[turn.id] = (turn.text, before)

    @precondition(lambda self: not self._open())
    @rule(text=st.text(min_size=1, max_size=4))
    def ask(self, text: str) -> None:
        before = list(self.transcript.turns)
        self.transcript.ask(text)
        assert self.transcript.turns[:-2] == before
        self._note(*self.transcript.turns[-2:])

    @precondition(lambda self: self._open())
    @rule(
        pieces=st.lists(st.text(max_size=3), max_size=4),
        state=st.sampled_from(["done", "stopped", "failed"]),
    )
    def answer(self, pieces: list[str], state: str) -> None:
        turn = self.transcript.turns[-1]
        turn.pieces.extend(pieces)
        assert turn.text == "".join(pieces) == turn.text
        turn.state = state  # type: ignore[assignment]
        self.said[turn.id] = (turn.text, self.said[turn.id][1])

    @precondition(lambda self: self.transcript.turns and not self._open())
    @rule(data=st.data(), text=st.text(min_size=1, max_size=4))
    def ask_anew(self, data: st.DataObject, text: str) -> None:
        before = list(self.transcript.turns)
        index = data.draw(st.integers(0, len(before) - 1))
        turn = before[index]
        if turn.speaker == "model":
            self.transcript.answer_again(turn.id)
            self._note(self.transcript.turns[-1])
        else:
            self.transcript.ask_instead(turn.id, text)
            self._note(*self.transcript.turns[-2:])
        assert self.transcript.turns[:index] == before[:index]
        assert turn.id in self.transcript.versions(self.transcript.turns[index])

    @precondition(lambda self: self.transcript.turns and not self._open())
    @rule(data=st.data())
    def show_and_come_back(self, data: st.DataObject) -> None:
        before = list(self.transcript.turns)
        wanted = data.draw(st.sampled_from(sorted(self.said)))
        self.transcript.show(wanted)
        assert wanted in [turn.id for turn in self.transcript.turns]
        if data.draw(st.booleans()):
            self.transcript.show(before[-1].id)
            assert self.transcript.turns == before

    @invariant()
    def what_is_shown_is_one_way_from_the_beginning_to_a_leaf(self) -> None:
        before = None
        for turn in self.transcript.turns:
            assert self.said[turn.id] == (turn.text, before)
            assert self.transcript.versions(turn) == tuple(
                one for one in self.said if self.said[one][1] == before
            )
            before = turn.id
        assert not [one for one in self.said if self.said[one][1] == before]

    @invariant()
    def speakers_alternate(self) -> None:
        speakers = [turn.speaker for turn in self.transcript.turns]
        assert speakers == ["you", "model"] * (len(speakers) // 2)
        roles = [one.role for one in self.transcript.said()]
        assert roles == [("user", "assistant")[n % 2] for n in range(len(roles))]
        assert (len(roles) % 2 == 1) == self._open()


TestConversations = Conversations.TestCase
TestConversations.settings = settings(deadline=None, max_examples=60)
