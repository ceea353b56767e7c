"""What a model's own files say of talking to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class ChatTraits:
    """What can be said to a model, and how it answers where nobody says how.

    Parameters
    ----------
    has_template
        Whether it reads messages; else one text, which it goes on with.
    takes_instructions
        Whether its chat template writes messages of the role ``system``.
    sampling
        The figures that it brings along, by the names of `GenerationConfig`; those that it
        does not say are not there.
    """

    has_template: bool = True
    takes_instructions: bool = True
    sampling: Mapping[str, float] = field(default_factory=dict)


def sampling_of(generation_config: Any) -> dict[str, float]:
    """Read the figures from what transformers made of ``generation_config.json``."""
    said = {name: getattr(generation_config, name, None) for name in _SAMPLING}
    return {name: value for name, value in said.items() if isinstance(value, int | float)}
