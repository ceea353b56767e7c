"""What generation gives back: a record a piece, and the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.svg import Axis, card_with, course
from ollm_widgets.runtime.pace import PaceSamples

FinishReason = Literal["stop", "stop-string", "length", "cancelled"]

# Fewer make no course.
_FEWEST_SAMPLES = 4


def figures(piece: Delta | Completion) -> str:
    """Say how an answer came about: ``"8 tokens, 20.1 tokens/s"``, and what was reused."""
    said = [f"{piece.new_tokens} token{'' if piece.new_tokens == 1 else 's'}"]
    if piece.tokens_per_s:
        said.append(f"{piece.tokens_per_s:.1f} tokens/s")
    if piece.reused_tokens and piece.new_tokens:
        said.append(f"{piece.reused_tokens:,} of {piece.prompt_tokens:,} prompt tokens reused")
    return ", ".join(said)


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer; the last one carries `finish_reason`.

    Parameters
    ----------
    text
        Text to append; it never ends inside a character.
    prompt_tokens, new_tokens
        Tokens read and written so far.
    time_to_first_token_s
        From the request's turn in the queue to its first token; 0 before there is one.
    seconds
        From the request's turn in the queue to this piece.
    finish_reason
        None until the end.
    reused_tokens
        Tokens of the prompt that did not have to be computed again.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    time_to_first_token_s: float
    seconds: float
    finish_reason: FinishReason | None = None
    reused_tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second after the first one; 0 while there is nothing to divide."""
        decode_s = self.seconds - self.time_to_first_token_s
        return (self.new_tokens - 1) / decode_s if self.new_tokens > 1 and decode_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Completion(Renderable):
    """A whole answer with its counts and timings.

    Parameters
    ----------
    pace
        Tokens written so far and seconds since the answer's turn came, all along the answer;
        empty where that was not kept.
    """

    text: str
    model: str
    finish_reason: FinishReason
    prompt_tokens: int
    new_tokens: int
    time_to_first_token_s: float
    seconds: float
    tokens_per_s: float
    reused_tokens: int = 0
    pace: tuple[tuple[int, float], ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, model: str, pieces: Sequence[Delta]) -> Completion:
        """Put together the text of all pieces, their pace, and the counts of the last one."""
        kept, last = PaceSamples(), pieces[-1]
        for piece in pieces:
            kept.add(piece.new_tokens, piece.seconds, last=piece.finish_reason is not None)
        return cls(
            text="".join(piece.text for piece in pieces),
            model=model,
            finish_reason=last.finish_reason or "cancelled",
            prompt_tokens=last.prompt_tokens,
            new_tokens=last.new_tokens,
            time_to_first_token_s=last.time_to_first_token_s,
            seconds=last.seconds,
            tokens_per_s=last.tokens_per_s,
            reused_tokens=last.reused_tokens,
            pace=tuple(kept.samples),
        )

    def to_html(self) -> str:
        """Return the card, with a picture of the answer's speed where that was kept."""
        return card_with(self.card(), self._picture())

    def card(self) -> Card:
        """The text, and how it came about."""
        reused = f" ({self.reused_tokens} of them reused)" if self.reused_tokens else ""
        return Card(
            title=self.model,
            badge=self.finish_reason,
            tone="ok" if self.finish_reason in ("stop", "stop-string") else "warn",
            rows=(
                Row("Answer", self.text),
                Row("Tokens", f"{self.prompt_tokens} read{reused}, {self.new_tokens} written"),
                Row(
                    "Speed",
                    f"{self.tokens_per_s:.1f} tokens/s, first token after "
                    f"{self.time_to_first_token_s:.2f} s",
                ),
            ),
        )

    def _picture(self) -> str:
        """Draw the speed after the first token."""
        if len(self.pace) < _FEWEST_SAMPLES:
            return ""
        (_first, began), *_rest = self.pace
        steps = [
            (at - began, (tokens - before) / (at - before_at))
            for (before, before_at), (tokens, at) in pairwise(self.pace)
            if at > before_at
        ]
        label = f"{self.tokens_per_s:.1f} tokens/s on average after the first token."
        ends = f"first token after {began:.2f} s", f"{self.seconds:.2f} s"
        return course(steps, Axis("per s", *ends), label)
