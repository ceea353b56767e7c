"""What a person asks for: how to answer."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.planning.checks import check_count, check_flag, check_number, check_texts
from ollm_widgets.planning.plain import PlainFields


@dataclass(frozen=True, slots=True)
class GenerationConfig(PlainFields):
    """How to answer.

    Parameters
    ----------
    max_new_tokens
        The most tokens of an answer.
    temperature
        0 always takes the likeliest token; above 0 samples.
    top_p, top_k, min_p
        Narrow what is sampled from: a share of the probability mass, a number of tokens (0
        is off), a share of the likeliest token's probability.
    repetition_penalty
        Above 1 makes tokens that have been used less likely.
    stop
        Strings that end the answer.
    seed
        Makes sampling repeatable.
    stream
        Show text as it comes.
    """

    max_new_tokens: int = 500
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _as_texts(self.stop))

    def validate(self) -> None:
        """Check every field.

        Raises
        ------
        ConfigError
            For the first value that cannot work; it names the field and the fix.
        """
        check_count("max_new_tokens", self.max_new_tokens, least=1, unit="tokens", optional=False)
        check_number("temperature", self.temperature, low=0, optional=False)
        check_number("top_p", self.top_p, low=0, high=1, above_low=True)
        check_count("top_k", self.top_k, least=0, unit="tokens")
        check_number("min_p", self.min_p, low=0, high=1)
        check_number("repetition_penalty", self.repetition_penalty, low=0, above_low=True)
        check_count("seed", self.seed, least=0, unit="steps")
        check_flag("stream", self.stream)
        check_texts("stop", self.stop)


def _as_texts(stop: object) -> object:
    """Accept one string, or a list, which is what people type."""
    if isinstance(stop, str):
        return (stop,)
    return tuple(stop) if isinstance(stop, list) else stop
