"""Pictures in cards: sound markup, no script, drawn to scale."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ollm_widgets.render.card import Card
from ollm_widgets.render.svg import (
    Axis,
    Series,
    card_with,
    course,
    round_values,
    stacked_columns,
)

AXIS = Axis("ms", "each token", "31 ms on average")
COLUMN = re.compile(r"M([\d.]+) ([\d.]+)v(-?[\d.]+)h([\d.]+)v([\d.]+)z")


def parsed(figure: str) -> ET.Element:
    """Read it as XML, which is stricter than a browser."""
    return ET.fromstring(figure)


def heights(figure: str) -> list[list[float]]:
    """Of each column, series by series."""
    found = parsed(figure).findall("svg/path")
    return [[float(one[4]) for one in COLUMN.findall(path.get("d", ""))] for path in found]


def test_columns_are_stacked_to_scale() -> None:
    figure = stacked_columns(
        [Series("Disk", "brown", (1.0, 3.0)), Series("Computing", "blue", (1.0, 1.0))],
        AXIS,
        "Two tokens.",
    )
    disk, computing = heights(figure)
    assert disk[1] == pytest.approx(3 * disk[0], rel=0.01)
    assert computing == [disk[0], disk[0]]
    assert "Disk" in figure
    assert 'aria-label="Two tokens."' in figure


def test_what_is_never_there_has_no_place_in_the_key() -> None:
    figure = stacked_columns(
        [Series("Disk", "brown", (0.0, 0.0)), Series("Computing", "blue", (1.0, 1.0))], AXIS, ""
    )
    assert "Disk" not in figure
    assert len(heights(figure)) == 1


@pytest.mark.parametrize("values", [(), (0.0, 0.0)])
def test_nothing_gives_no_picture(values: tuple[float, ...]) -> None:
    assert stacked_columns([Series("Disk", "brown", values)], AXIS, "") == ""
    assert stacked_columns([], AXIS, "") == ""
    assert course([(1.0, value) for value in values], AXIS, "") == ""


def test_a_course_goes_through_each_step() -> None:
    figure = course([(1.0, 10.0), (4.0, 20.0)], Axis("per s", "0 s", "4 s"), "")
    line = parsed(figure).findall("svg/path")[1].get("d", "")
    (*_start, first), (*_more, second) = re.findall(r"V([\d.]+)H([\d.]+)", line)
    assert float(second) == pytest.approx(4 * float(first), rel=0.01)


@given(st.text(), st.text(), st.lists(st.floats(0, 1e6), min_size=1, max_size=8))
@example("", "", [5e-324])
def test_any_text_and_any_values_make_sound_markup(
    name: str, label: str, values: list[float]
) -> None:
    name, label = (
        "".join(c for c in text if c.isprintable() and ord(c) < 0xD800) for text in (name, label)
    )
    figure = stacked_columns([Series(name, "blue", tuple(values))], Axis(name, name, name), label)
    if not figure:
        assert not any(values)
        return
    tree = parsed(figure)
    tags = {element.tag for element in tree.iter()}
    assert tags <= {"figure", "style", "svg", "path", "line", "text", "figcaption", "span", "i"}
    names = {key for element in tree.iter() for key in element.attrib}
    assert not any(key.startswith("on") or "href" in key for key in names)
    svg = tree.find("svg")
    assert svg is not None
    assert svg.get("aria-label") == label


def test_a_card_holds_the_picture_and_what_it_said_before() -> None:
    html = card_with(Card("Trace", "3 passes"), "<figure></figure>")
    assert html.endswith("<figure></figure></section>")
    assert "3 passes" in html


@given(st.floats(1e-6, 1e9))
@example(999_999_999.75)
def test_lines_are_few_and_within(most: float) -> None:
    values = round_values(most)
    assert 1 <= len(values) <= 3
    assert values[-1] <= most * (1 + 1e-6)
    assert values == tuple(sorted(values))


def test_there_are_no_lines_where_there_is_no_scale() -> None:
    assert round_values(0) == round_values(-1) == round_values(math.nan) == ()
    assert round_values(math.inf) == ()
