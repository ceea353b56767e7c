"""What the time of one token is made of, from the trace of its pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ollm_widgets.render.units import format_seconds

if TYPE_CHECKING:
    from ollm_widgets.weights.trace import LayerTrace, PassTrace

PartKind: TypeAlias = Literal["disk", "copy", "unpack", "compute", "choose", "between"]

PART_NAMES: dict[PartKind, str] = {
    "disk": "Waiting for disk",
    "copy": "Waiting for copies",
    "unpack": "Unpacking",
    "compute": "Computing",
    "choose": "Choosing the token",
    "between": "Between layers",
}
# What takes less of a time is not worth a word.
LEAST_SHARE = 0.005
PART_MEANINGS: dict[PartKind, str] = {
    "disk": "Layers that are read from disk or page cache, as far as they came too late.",
    "copy": "Layers that are copied to the accelerator, as far as they came too late.",
    "unpack": "Weights that are kept smaller in memory become what computes.",
    "compute": "The layers themselves, with their keys and values.",
    "choose": "From the end of the last layer to the choice of the next token.",
    "between": "From the end of a layer to the start of the next one.",
}


@dataclass(frozen=True, slots=True)
class TokenTime:
    """The pass that gave one token, and what its time is made of. All times are in seconds.

    Parameters
    ----------
    number
        Which token of the answer, from 1.
    prompt_tokens
        Tokens of the prompt that the pass read; 0 where it read the token before alone.
    parts
        By kind, in the order of `PART_NAMES`; together they are the time of the pass.
    layers
        What each layer took, in the order in which they ran.
    note
        Why the pass was not captured, though others are; else empty.
    """

    number: int
    prompt_tokens: int
    parts: dict[PartKind, float]
    layers: tuple[LayerTrace, ...]
    note: str = ""

    @property
    def total_s(self) -> float:
        """Seconds of the whole pass."""
        return sum(self.parts.values())


def token_times(passes: Sequence[PassTrace], first: int = 1) -> tuple[TokenTime, ...]:
    """Say of each pass of one answer which token it gave, and where its time went.

    Steps that were not recorded leave gaps in the numbers, which begin with `first`.
    """
    times: list[TokenTime] = []
    number = first
    for each in passes:
        times.append(_token_time(each, number))
        number += 1 + each.unrecorded
    return tuple(times)


def last_answer(passes: Sequence[PassTrace]) -> Sequence[PassTrace]:
    """Return the passes from the last prompt on: those of the answer that was traced last."""
    prompts = [index for index, each in enumerate(passes) if each.tokens > 1]
    return passes[prompts[-1] if prompts else 0 :]


def first_number(passes: Sequence[PassTrace], prompt_tokens: int, new_tokens: int) -> int:
    """Return which token its first pass gave: of a long answer the last passes are kept.

    Parameters
    ----------
    passes
        At least one, without those of other answers.
    prompt_tokens, new_tokens
        Of the answer: all of its prompt, and what it has come to.
    """
    if passes[0].tokens > 1:
        return 1
    if passes[0].position is not None:
        # The step that runs the prompt's last token gives the first one.
        return max(passes[0].position - prompt_tokens + 2, 1)
    steps = 1 + sum(1 + each.unrecorded for each in passes[:-1])
    return max(new_tokens - steps + 1, 1)


def _token_time(each: PassTrace, number: int) -> TokenTime:
    parts: dict[PartKind, float] = {
        kind: sum(layer_seconds(layer, kind) for layer in each.layers) for kind in PART_NAMES
    }
    parts["copy"] += each.ahead_wait_s
    parts["choose"] = each.head_s
    # Moments are noted in order, so that only rounding could make this negative.
    parts["between"] = max(each.total_s - sum(parts.values()), 0.0)
    prompt_tokens = each.tokens if each.tokens > 1 else 0
    return TokenTime(number, prompt_tokens, parts, each.layers, each.note)


def layer_seconds(layer: LayerTrace, kind: PartKind) -> float:
    """Return what one layer took of a kind; 0 for what comes beside the layers."""
    match kind:
        case "disk":
            return layer.disk_wait_s
        case "copy":
            return layer.device_copy_s
        case "unpack":
            return layer.unpack_s
        case "compute":
            return layer.compute_s
        case _:
            return 0.0


def where(parts: Mapping[PartKind, float]) -> str:
    """Say what a time was spent on, the longest first: ``"72% computing, 28% unpacking"``."""
    total = sum(parts.values())
    shares = sorted(parts.items(), key=lambda pair: -pair[1])
    told = [
        f"{seconds / total:.0%} {PART_NAMES[kind].lower()}"
        for kind, seconds in shares
        if total and seconds / total >= LEAST_SHARE
    ]
    return ", ".join(told)


def precise(seconds: float) -> str:
    """Say a time whose milliseconds matter: ``"131 ms"`` where a rough one would be ``"0.1 s"``."""
    return f"{seconds * 1000:.0f} ms" if 0.0995 <= seconds < 0.9995 else format_seconds(seconds)
