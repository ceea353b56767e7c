"""What the time of one token is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.runtime.token_time import first_number, last_answer, precise, token_times, where
from ollm_widgets.weights.trace import LayerTrace, PassTrace

SECONDS = st.floats(0, 10, allow_nan=False)


@st.composite
def passes(draw: st.DrawFn) -> PassTrace:
    layers = tuple(
        LayerTrace(index, "disk", *draw(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS)))
        for index in range(draw(st.integers(1, 5)))
    )
    inside = sum(
        layer.disk_wait_s + layer.device_copy_s + layer.unpack_s + layer.compute_s
        for layer in layers
    )
    head, ahead, between = draw(st.tuples(SECONDS, SECONDS, SECONDS))
    return PassTrace(
        draw(st.integers(1, 9)),
        layers,
        inside + head + ahead + between,
        head_s=head,
        ahead_wait_s=ahead,
        unrecorded=draw(st.integers(0, 3)),
    )


@given(passes())
def test_the_parts_of_a_token_are_its_time(each: PassTrace) -> None:
    (token,) = token_times([each])
    assert token.total_s == pytest.approx(each.total_s)
    assert all(seconds >= 0 for seconds in token.parts.values())
    assert token.parts["compute"] == pytest.approx(sum(one.compute_s for one in each.layers))
    assert token.parts["copy"] == pytest.approx(
        sum(one.device_copy_s for one in each.layers) + each.ahead_wait_s
    )
    assert len(token.layers) == len(each.layers)


LAYER = (LayerTrace(0, "host", 0, 0, 0, 1.0),)


def test_tokens_are_numbered_through_what_was_not_recorded() -> None:
    prompt = PassTrace(9, LAYER, 1.0)
    steps = [PassTrace(1, LAYER, 1.0, unrecorded=missing) for missing in (0, 2, 0)]
    tokens = token_times([prompt, *steps])
    assert [token.number for token in tokens] == [1, 2, 3, 6]
    assert [token.prompt_tokens for token in tokens] == [9, 0, 0, 0]


def test_of_a_long_answer_whose_beginning_was_let_go_tokens_are_numbered_by_what_is_known() -> None:
    prompt, step = PassTrace(9, LAYER, 1.0), PassTrace(1, LAYER, 1.0)
    assert first_number([prompt, step], 9, 2) == 1
    assert first_number([step] * 256, 9, 300) == 45
    captured = [PassTrace(1, LAYER, 1.0, position=place, unrecorded=1) for place in (9, 11)]
    assert first_number(captured, 9, 5) == 2  # the pass of the prompt gave the first one
    assert [token.number for token in token_times(captured, 2)] == [2, 4]
    assert first_number([step], 9, 1) == 1


def test_the_last_answer_begins_with_its_prompt() -> None:
    prompt, step = PassTrace(9, LAYER, 1.0), PassTrace(1, LAYER, 1.0)
    other = PassTrace(3, LAYER, 1.0)
    assert list(last_answer([prompt, step, step, other, step])) == [other, step]
    assert list(last_answer([step, step])) == [step, step]
    assert list(last_answer([])) == []


def test_where_a_time_went_is_said_the_longest_first_and_without_crumbs() -> None:
    assert where({"disk": 3.0, "compute": 7.0, "copy": 0.01}) == (
        "70% computing, 30% waiting for disk"
    )
    assert where({}) == where({"disk": 0.0}) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0314, "31 ms"), (0.131, "131 ms"), (0.99, "990 ms"), (1.24, "1.2 s")]
)
def test_milliseconds_are_told_where_they_matter(seconds: float, text: str) -> None:
    assert precise(seconds) == text
