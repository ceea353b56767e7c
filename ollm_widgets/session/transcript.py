"""The conversation: turns, their versions and states, and the messages they make."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

from ollm_widgets.errors import ConfigError
from ollm_widgets.session.attachments import Attachment
from ollm_widgets.session.branches import BEGINNING, Branches

Speaker = Literal["you", "model"]
TurnState = Literal["done", "waiting", "streaming", "stopped", "failed"]


@dataclass(slots=True, eq=False)
class Turn:
    """What one speaker said.

    Parameters
    ----------
    pieces
        Its text, as it came.
    attachments
        Files that go with a question.
    context_tokens
        Tokens of the context that are used after an answer; 0 where that is not known.
    """

    id: str
    speaker: Speaker
    pieces: list[str]
    state: TurnState = "done"
    note: str = ""
    attachments: tuple[Attachment, ...] = ()
    context_tokens: int = 0

    @property
    def text(self) -> str:
        """Everything said so far."""
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


@dataclass(frozen=True, slots=True)
class Said:
    """One message, its files not yet read.

    Parameters
    ----------
    role
        ``user`` or ``assistant``.
    """

    role: Literal["user", "assistant"]
    text: str
    attachments: tuple[Attachment, ...] = ()


@dataclass(slots=True)
class Transcript:
    """Turns in order: a question, its answer, the next question.

    Whatever is asked anew keeps what stood there before as another version; `turns` are those
    that are shown.
    """

    turns: list[Turn] = field(default_factory=list)
    _branches: Branches = field(default_factory=Branches)
    _known: dict[str, Turn] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def ask(self, text: str, attachments: tuple[Attachment, ...] = ()) -> Turn:
        """Add a question and an empty answer; returns the answer, which waits."""
        self._add("you", text, attachments)
        return self._add("model")

    def answer_again(self, turn_id: str) -> Turn:
        """Add an empty answer as another version of the answer `turn_id`; returns it.

        Raises
        ------
        ConfigError
            If no answer that is shown has that id.
        """
        del self.turns[self._index(turn_id, "model") :]
        return self._add("model")

    def ask_instead(self, turn_id: str, text: str) -> Turn:
        """Add a question as another version of `turn_id`, with the same files, and its answer.

        Returns
        -------
        Turn
            The answer, which waits.

        Raises
        ------
        ConfigError
            If no question that is shown has that id.
        """
        index = self._index(turn_id, "you")
        attachments = self.turns[index].attachments
        del self.turns[index:]
        return self.ask(text, attachments)

    def show(self, turn_id: str) -> None:
        """Show a version of a turn, and what followed it when it was shown last.

        Raises
        ------
        ConfigError
            If the conversation has no such turn.
        """
        if turn_id not in self._branches:
            raise _no_turn(turn_id)
        self._branches.choose(turn_id)
        self.turns = [self._known[one] for one in self._branches.way()]

    def versions(self, turn: Turn) -> tuple[str, ...]:
        """Return the ids of a turn and of its other versions, oldest first."""
        return self._branches.versions(turn.id)

    def emptied(self) -> Transcript:
        """A transcript without turns, which gives none of this one's ids again."""
        return Transcript(_ids=self._ids)

    @property
    def context_tokens(self) -> int:
        """Tokens of the context after the last answer that is shown and was counted."""
        counted = (turn.context_tokens for turn in reversed(self.turns) if turn.context_tokens)
        return next(counted, 0)

    def said(self) -> list[Said]:
        """What to send to the model: every exchange that has an answer, and the open question.

        A failed or empty answer is left out together with its question, since chat templates
        expect the speakers to alternate.
        """
        said: list[Said] = []
        for question, answer in zip(self.turns[::2], self.turns[1::2], strict=True):
            waiting = answer.state == "waiting"
            answered = not waiting and answer.state != "failed" and bool(answer.text)
            if waiting or answered:
                said.append(Said("user", question.text, question.attachments))
            if answered:
                said.append(Said("assistant", answer.text))
        return said

    def _add(
        self, speaker: Speaker, text: str | None = None, attachments: tuple[Attachment, ...] = ()
    ) -> Turn:
        """Add a turn after those that are shown: a question with its text, or an open answer."""
        turn = Turn(
            f"turn-{next(self._ids)}",
            speaker,
            [] if text is None else [text],
            "waiting" if text is None else "done",
            attachments=attachments,
        )
        self._branches.add(turn.id, self.turns[-1].id if self.turns else BEGINNING)
        self._known[turn.id] = turn
        self.turns.append(turn)
        return turn

    def _index(self, turn_id: str, speaker: Speaker) -> int:
        for index, turn in enumerate(self.turns):
            if turn.id == turn_id and turn.speaker == speaker:
                return index
        raise _no_turn(turn_id)


def _no_turn(turn_id: str) -> ConfigError:
    return ConfigError(
        "turn",
        f"{turn_id!r} is no turn of this conversation.",
        hint="It may have been replaced in another view.",
    )
