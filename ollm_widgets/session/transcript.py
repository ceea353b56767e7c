"""The conversation: turns, their states, and the messages they make."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

from ollm_widgets.errors import ConfigError

Speaker = Literal["you", "model"]
TurnState = Literal["done", "waiting", "streaming", "stopped", "failed"]


@dataclass(slots=True)
class Turn:
    """What one speaker said."""

    id: str
    speaker: Speaker
    pieces: list[str]
    state: TurnState = "done"
    note: str = ""

    @property
    def text(self) -> str:
        """Everything said so far."""
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


@dataclass(slots=True)
class Transcript:
    """Turns in order: a question, its answer, the next question."""

    turns: list[Turn] = field(default_factory=list)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def ask(self, text: str) -> Turn:
        """Add a question and an empty answer; returns the answer, which waits."""
        self.turns.append(self._turn("you", [text]))
        answer = self._turn("model", [], "waiting")
        self.turns.append(answer)
        return answer

    def question_before(self, turn_id: str) -> str:
        """Drop the answer `turn_id` with all that follows it, and its question.

        Returns
        -------
        str
            The question, to be asked again.
        """
        index = self._index(turn_id, "model")
        question = self.turns[index - 1].text
        del self.turns[index - 1 :]
        return question

    def drop_from(self, turn_id: str) -> None:
        """Drop the question `turn_id` and all that follows it."""
        del self.turns[self._index(turn_id, "you") :]

    def emptied(self) -> Transcript:
        """A transcript without turns, which gives none of this one's ids again."""
        return Transcript(_ids=self._ids)

    def messages(self) -> list[dict[str, str]]:
        """What to send to the model: every exchange that has an answer, and the open question.

        A failed or empty answer is left out together with its question, since chat templates
        expect the speakers to alternate.
        """
        messages: list[dict[str, str]] = []
        for question, answer in zip(self.turns[::2], self.turns[1::2], strict=True):
            waiting = answer.state == "waiting"
            answered = not waiting and answer.state != "failed" and bool(answer.text)
            if waiting or answered:
                messages.append({"role": "user", "content": question.text})
            if answered:
                messages.append({"role": "assistant", "content": answer.text})
        return messages

    def _turn(self, speaker: Speaker, pieces: list[str], state: TurnState = "done") -> Turn:
        return Turn(f"turn-{next(self._ids)}", speaker, pieces, state)

    def _index(self, turn_id: str, speaker: Speaker) -> int:
        for index, turn in enumerate(self.turns):
            if turn.id == turn_id and turn.speaker == speaker:
                return index
        raise ConfigError(
            "turn",
            f"{turn_id!r} is no turn of this conversation.",
            hint="It may have been replaced in another view.",
        )
