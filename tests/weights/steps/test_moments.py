"""Moments of a pass: what lies between them, and how many a captured step takes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.weights.steps.moments import Moment, Moments

# What is noted of a layer that is there, one that is copied, and one that is read first.
STAGES: dict[str, tuple[str, ...]] = {
    "resident": (),
    "host": ("copied",),
    "disk": ("read", "copied"),
}


class Reading:
    """An event with the resolution of CUDA's: single-precision milliseconds."""

    def __init__(self, at_ms: float) -> None:
        self.at_ms = at_ms
        self.readings = 0

    def elapsed_time(self, end_event: Reading) -> float:
        end_event.readings += 1
        # As many digits as a float of 32 bits has.
        return float(f"{end_event.at_ms - self.at_ms:.7g}")


def noted(kinds: list[str], moments: Moments) -> Moments:
    for layer, kind in enumerate(kinds):
        moments.begin(layer, "host")
        for stage in STAGES[kind]:
            getattr(moments, stage)()
        moments.ready()
        moments.end()
    moments.chosen()
    moments.over()
    return moments


@given(
    kinds=st.lists(st.sampled_from(list(STAGES)), min_size=1, max_size=40),
    gaps=st.lists(st.floats(0, 50), min_size=250, max_size=250),
    sparing=st.booleans(),
    on_device=st.booleans(),
)
def test_what_layers_wait_and_take_is_never_negative_nor_more_than_the_pass(
    kinds: list[str], gaps: list[float], sparing: bool, on_device: bool
) -> None:
    clock = itertools.accumulate(gaps)
    events: list[Reading] = []

    def now() -> Moment:
        if not on_device:
            return next(clock)
        events.append(Reading(next(clock)))
        return events[-1]

    moments = noted(kinds, Moments(1, now, sparing=sparing))
    times = moments.times(moments.seconds())
    parts = 0.0
    for layer, kind in zip(times.layers, kinds, strict=True):
        stages = (layer.start, layer.read, layer.copied, layer.ready, layer.end)
        assert list(stages) == sorted(stages)
        parts += layer.end - layer.start
        assert (layer.read > layer.start) <= (kind == "disk")
        if sparing and kind == "resident":
            assert layer.ready == layer.start
    assert parts <= times.over * (1 + 1e-6) + 1e-9
    assert times.layers[-1].end <= times.chosen <= times.over
    # However many stages share a moment, it is read once, and not again for what it means.
    assert all(event.readings == 1 for event in events)


@given(st.lists(st.sampled_from(list(STAGES)), min_size=1, max_size=40))
def test_a_sparing_pass_takes_one_moment_where_nothing_lies_between_two(kinds: list[str]) -> None:
    moments = noted(kinds, Moments(1, itertools.count().__next__, sparing=True))
    of_layers = sum({"resident": 1, "host": 3, "disk": 4}[kind] for kind in kinds)
    # The start of the first layer, the choice and the end of the step.
    assert moments.count == of_layers + 3


def test_a_pass_is_finished_when_its_last_layer_has_computed() -> None:
    moments = Moments(1, itertools.count().__next__)
    assert not moments.finished
    moments.begin(0, "host")
    assert not moments.finished
    moments.end()
    assert moments.finished
