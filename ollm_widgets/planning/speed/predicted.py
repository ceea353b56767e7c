"""How fast a plan should run, as a part of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ollm_widgets.planning.profile.bandwidth import Bandwidth


@dataclass(frozen=True, slots=True)
class SpeedPart:
    """One thing that a pass waits for, or does.

    Parameters
    ----------
    name
        In words: ``"the wire to the accelerator"``.
    moved_bytes, bytes_per_s
        What moves in a pass, and how fast; 0 where it is no wire.
    seconds
        What it takes if nothing else is slower.
    """

    name: str
    moved_bytes: int
    bytes_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadStage:
    """One stage of loading, by the name under which its progress is reported, and its seconds."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Correction:
    """What was observed of plans alike on this machine, and what it did to a prediction.

    Parameters
    ----------
    token, first_token, load
        What the calculated seconds are multiplied with.
    observations
        Answers that these factors come from; 0 leaves all of them at 1.
    """

    token: float = 1.0
    first_token: float = 1.0
    load: float = 1.0
    observations: int = 0


@dataclass(frozen=True, slots=True)
class SpeedPrediction:
    """How fast the plan should run.

    Parameters
    ----------
    seconds_per_token
        For each generated token, after the first, behind a prompt of `prompt_tokens`.
    time_to_first_token_s, prompt_tokens
        Seconds until the first token for a prompt of that many tokens.
    bandwidth
        The measured bandwidth it follows from.
    why
        The calculation in words.
    load
        The stages of loading, in order; empty where the model's files are not here.
    token_parts, first_token_parts
        What a decoded token and a prompt are made of; the slowest part bounds them.
    correction
        What observed answers changed; the seconds above have it in them.
    """

    seconds_per_token: float
    time_to_first_token_s: float
    prompt_tokens: int
    bandwidth: Bandwidth
    why: str
    load: tuple[LoadStage, ...] = ()
    token_parts: tuple[SpeedPart, ...] = ()
    first_token_parts: tuple[SpeedPart, ...] = ()
    correction: Correction = field(default_factory=Correction)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return 1 / self.seconds_per_token

    @property
    def load_s(self) -> float | None:
        """Seconds of loading in all; None where that is not predicted."""
        return sum(each.seconds for each in self.load) if self.load else None

    @property
    def bound_by(self) -> str:
        """The slowest part of a token, in words; empty where parts are not known."""
        slowest = max(self.token_parts, key=lambda part: part.seconds, default=None)
        return slowest.name if slowest is not None else ""
