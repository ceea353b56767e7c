"""How fast the plan should be, and what that is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.parts import listed
from ollm_widgets.protocol.snapshot import Figure, TimePart, TimeView
from ollm_widgets.render.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollm_widgets.planning.speed.predicted import SpeedPart, SpeedPrediction

# Below this an observation says that the calculation is right.
_LEAST_CORRECTION = 0.05


def view_speed(speed: SpeedPrediction | None) -> tuple[Figure, ...]:
    """The predicted figures."""
    if speed is None:
        return ()
    figures = [
        Figure(value=f"{speed.tokens_per_s:.3g}", unit="tokens/s", explanation=speed.why),
        Figure(value=_precise(speed.seconds_per_token), unit="per token"),
        Figure(
            value=format_seconds(speed.time_to_first_token_s),
            unit="first token",
            explanation=f"For a prompt of {speed.prompt_tokens:,} tokens.",
        ),
    ]
    if speed.load_s is not None:
        figures.append(Figure(value=format_seconds(speed.load_s), unit="to load"))
    return tuple(figures)


def view_times(speed: SpeedPrediction | None) -> tuple[TimeView, ...]:
    """What each of the predicted times is made of, where that is known."""
    if speed is None:
        return ()
    times = []
    if speed.token_parts:
        times.append(
            TimeView(
                title=f"One token, {_precise(speed.seconds_per_token)}",
                parts=tuple(_slowest_first(speed.token_parts)),
                note=f"Bound by {speed.bound_by}." if speed.bound_by else "",
            )
        )
    if speed.first_token_parts:
        first = format_seconds(speed.time_to_first_token_s)
        times.append(
            TimeView(
                title=f"A prompt of {speed.prompt_tokens:,} tokens, {first}",
                parts=tuple(_slowest_first(speed.first_token_parts)),
            )
        )
    if speed.load_s is not None:
        times.append(
            TimeView(
                title=f"Loading, {format_seconds(speed.load_s)}",
                parts=tuple(
                    TimePart(
                        label=stage.stage, seconds=stage.seconds, text=format_seconds(stage.seconds)
                    )
                    for stage in speed.load
                ),
            )
        )
    return tuple(times)


def view_correction(speed: SpeedPrediction | None) -> str:
    """What earlier answers changed; empty where there were none."""
    if speed is None or not speed.correction.observations:
        return ""
    correction, count = speed.correction, speed.correction.observations
    answers = f"{count} earlier answer{'' if count == 1 else 's'} on this machine"
    factors = (
        ("a token", correction.token),
        ("the first token", correction.first_token),
        ("loading", correction.load),
    )
    changed = [
        f"{what} takes {factor:.2g} times"
        for what, factor in factors
        if abs(factor - 1) >= _LEAST_CORRECTION
    ]
    if not changed:
        return f"Confirmed by {answers}."
    return f"Corrected by {answers}: {listed(changed)} what is calculated."


def _slowest_first(parts: tuple[SpeedPart, ...]) -> Iterable[TimePart]:
    for part in sorted(parts, key=lambda part: part.seconds, reverse=True):
        moved = f"{format_bytes(part.moved_bytes)} at {format_bytes(part.bytes_per_s)}/s"
        yield TimePart(
            label=part.name,
            seconds=part.seconds,
            text=_precise(part.seconds),
            explanation=moved if part.moved_bytes and part.bytes_per_s else "",
        )


def _precise(seconds: float) -> str:
    """Seconds whose hundredths matter: ``"236 ms"`` where a rough time would be ``"0.2 s"``."""
    return f"{seconds * 1000:.0f} ms" if 0.0995 <= seconds < 0.9995 else format_seconds(seconds)
