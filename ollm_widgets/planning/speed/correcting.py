"""Predictions corrected by what came true of plans alike.

The calculation stays as it is; a correction is one factor for the tokens, one for the first token
and one for the load. It comes from plans that were run, so it may differ between two placements
of one model: that more memory is never predicted slower holds for what is calculated, which is
what placements are chosen by, and not for what is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from ollm_widgets.planning.speed.alike import PlanShape, shape_of
from ollm_widgets.planning.speed.observed import (
    Measure,
    ObservationStore,
    Ratios,
    default_store,
)
from ollm_widgets.planning.speed.predicted import Correction, SpeedPart, SpeedPrediction

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

# A shorter answer says little of what a token takes.
LEAST_NEW_TOKENS = 8
LEAST_OBSERVATIONS = 2
LEAST_SHAPES = 3
# What lies beyond is no matter of this machine's pace, but of something that went wrong once.
LEAST_FACTOR, LARGEST_FACTOR = 0.2, 5.0

Correct: TypeAlias = "Callable[[RuntimePlan], Correction]"


def correction_for(shape: PlanShape, store: ObservationStore | None) -> Correction:
    """Return what earlier loads and answers say of a prediction.

    Each factor is the median of measured over calculated of the last observations of plans of
    this shape, if there are two or more. Else it is the median of the shapes of the same regime,
    if three or more of them have as many. Else it is 1.

    Parameters
    ----------
    store
        None where nothing is remembered.
    """
    if store is None:
        return Correction()
    observed = store.read(shape)

    def factor(what: Measure) -> tuple[float, int]:
        own = observed.own.get(what, ())
        if len(own) >= LEAST_OBSERVATIONS:
            return _within_bounds(median(own)), len(own)
        alike = _of_shapes(observed.alike, what)
        if len(alike) < LEAST_SHAPES:
            return 1.0, 0
        return _within_bounds(median(map(median, alike))), sum(map(len, alike))

    token, of_tokens = factor("token")
    first_token, of_first_tokens = factor("first-token")
    load, of_loads = factor("load")
    return Correction(token, first_token, load, max(of_tokens, of_first_tokens, of_loads))


def observed_correction(plan: RuntimePlan) -> Correction:
    """Return what is remembered on this machine for a plan."""
    return correction_for(shape_of(plan), default_store())


def corrected(prediction: SpeedPrediction, correction: Correction) -> SpeedPrediction:
    """Return a prediction with another correction in it, instead of the one that it has.

    Its words, bytes and bandwidth stay: they say what was calculated and measured.
    """
    before = prediction.correction
    token = correction.token / before.token
    first_token = correction.first_token / before.first_token
    load = correction.load / before.load
    return replace(
        prediction,
        seconds_per_token=prediction.seconds_per_token * token,
        time_to_first_token_s=prediction.time_to_first_token_s * first_token,
        load=tuple(replace(each, seconds=each.seconds * load) for each in prediction.load),
        token_parts=_scaled(prediction.token_parts, token),
        first_token_parts=_scaled(prediction.first_token_parts, first_token),
        correction=correction,
    )


def calculated(prediction: SpeedPrediction) -> SpeedPrediction:
    """Return a prediction without any correction."""
    return corrected(prediction, Correction())


def corrected_plan(plan: RuntimePlan, correct: Correct = observed_correction) -> RuntimePlan:
    """Return a plan with its speed corrected by what came true of plans alike."""
    if plan.speed is None:
        return plan
    correction = correct(plan)
    if correction == plan.speed.correction:
        return plan
    return plan.refine(speed=corrected(plan.speed, correction))


def correction_words(correction: Correction) -> str:
    """Say what was corrected, in a sentence; empty where nothing was."""
    said = [
        f"{factor:.2g} times the calculated time for {what}"
        for what, factor in (
            ("a token", correction.token),
            ("the first token", correction.first_token),
            ("loading", correction.load),
        )
        if f"{factor:.2g}" != "1"
    ]
    if not correction.observations or not said:
        return ""
    return f"{correction.observations} earlier runs on this machine took {', '.join(said)}."


def _of_shapes(shapes: Iterable[dict[Measure, Ratios]], what: Measure) -> list[Ratios]:
    ratios = (each.get(what, ()) for each in shapes)
    return [each for each in ratios if len(each) >= LEAST_OBSERVATIONS]


def _within_bounds(factor: float) -> float:
    return min(max(factor, LEAST_FACTOR), LARGEST_FACTOR)


def _scaled(parts: tuple[SpeedPart, ...], factor: float) -> tuple[SpeedPart, ...]:
    return tuple(replace(each, seconds=each.seconds * factor) for each in parts)
