from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ollm_widgets import ConfigError
from ollm_widgets.session.transcript import Transcript, Turn


def answered(transcript: Transcript, question: str, *pieces: str) -> Turn:
    answer = transcript.ask(question)
    answer.pieces.extend(pieces)
    answer.state = "done"
    return answer


def pairs(transcript: Transcript) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in transcript.messages()]


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


def test_asking_again_drops_the_answer_and_what_followed() -> None:
    transcript = Transcript()
    first = answered(transcript, "one", "a")
    answered(transcript, "two", "b")
    assert transcript.question_before(first.id) == "one"
    assert transcript.turns == []


def test_editing_drops_the_question_and_what_followed() -> None:
    transcript = Transcript()
    answered(transcript, "one", "a")
    answered(transcript, "two", "b")
    transcript.drop_from(transcript.turns[2].id)
    assert pairs(transcript) == [("user", "one"), ("assistant", "a")]


def test_an_id_is_not_given_twice() -> None:
    transcript = Transcript()
    old = answered(transcript, "one", "a")
    transcript.question_before(old.id)
    answered(transcript, "one", "a")
    with pytest.raises(ConfigError, match="no turn of this conversation"):
        transcript.question_before(old.id)


def test_a_turn_of_the_other_speaker_is_refused() -> None:
    transcript = Transcript()
    answer = answered(transcript, "one", "a")
    with pytest.raises(ConfigError, match="is no turn") as caught:
        transcript.question_before(transcript.turns[0].id)
    assert "another view" in caught.value.hint
    with pytest.raises(ConfigError):
        transcript.drop_from(answer.id)
    assert len(transcript.turns) == 2


class Conversations(RuleBasedStateMachine):
    """Any order of asking, answering, retrying and editing."""

    @initialize()
    def begin(self) -> None:
        self.transcript = Transcript()
        self.ids: set[str] = set()

    def _open(self) -> bool:
        turns = self.transcript.turns
        return bool(turns) and turns[-1].state == "waiting"

    @precondition(lambda self: not self._open())
    @rule(text=st.text(min_size=1, max_size=4))
    def ask(self, text: str) -> None:
        self.transcript.ask(text)
        new = {turn.id for turn in self.transcript.turns[-2:]}
        assert not new & self.ids
        self.ids |= new

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

    @precondition(lambda self: self.transcript.turns and not self._open())
    @rule(data=st.data())
    def go_back(self, data: st.DataObject) -> None:
        turns = self.transcript.turns
        index = data.draw(st.integers(0, len(turns) - 1))
        turn, kept, question = turns[index], index - index % 2, turns[index - index % 2].text
        if turn.speaker == "model":
            assert self.transcript.question_before(turn.id) == question
        else:
            self.transcript.drop_from(turn.id)
        assert len(self.transcript.turns) == kept

    @invariant()
    def speakers_alternate(self) -> None:
        speakers = [turn.speaker for turn in self.transcript.turns]
        assert speakers == ["you", "model"] * (len(speakers) // 2)
        roles = [message["role"] for message in self.transcript.messages()]
        assert roles == [("user", "assistant")[n % 2] for n in range(len(roles))]
        assert (len(roles) % 2 == 1) == self._open()


TestConversations = Conversations.TestCase
TestConversations.settings = settings(deadline=None, max_examples=60)
