"""Small pictures for cards: inline SVG without a script, readable with no kernel and no network."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal, TypeAlias

from ollm_widgets.render import themes
from ollm_widgets.render.html import card_to_html
from ollm_widgets.render.themes import themed

if TYPE_CHECKING:
    from ollm_widgets.render.card import Card

Hue: TypeAlias = Literal["blue", "violet", "brown", "green", "olive", "rose", "grey"]

_COLORS: dict[Hue, tuple[str, str]] = {
    "blue": themes.BLUE,
    "violet": themes.VIOLET,
    "brown": themes.BROWN,
    "green": themes.GREEN,
    "olive": themes.OLIVE,
    "rose": themes.ROSE,
    "grey": ("#8b8f96", "#80858c"),
}
_STYLE = (
    themed(".ollm-card figure", "os", _COLORS) + ".ollm-card figure{margin:10px 0 0}"
    ".ollm-card figure{width:560px;max-width:100%;container-type:inline-size}"
    ".ollm-card figure svg{display:block;width:100%;height:auto;overflow:visible}"
    ".ollm-card figure text{fill:var(--oc-d);font-size:11px}"
    # The picture shrinks with the page, and its words with it.
    "@container (max-width:420px){.ollm-card figure text{font-size:15px}}"
    ".ollm-card figure line{stroke:var(--oc-l);stroke-width:1px}"
    ".ollm-card figcaption{display:flex;flex-wrap:wrap;gap:2px 14px;margin-top:4px;"
    "color:var(--oc-d);font-size:12px}"
    ".ollm-card figcaption i{display:inline-block;width:9px;height:9px;margin-right:5px;"
    "border-radius:2px}"
)

_WIDTH, _HEIGHT, _GUTTER, _TOP, _BOTTOM = 560, 112, 56, 6, 18
_PLOT_WIDTH, _PLOT_HEIGHT = _WIDTH - _GUTTER, _HEIGHT - _TOP - _BOTTOM
_FEWEST_SLOTS = 12
_MOST_LINES = 3


@dataclass(frozen=True, slots=True)
class Series:
    """One kind of thing that columns are stacked of.

    Parameters
    ----------
    name
        As the key under the picture says it.
    hue
        Its colour.
    values
        One a column, none below zero.
    """

    name: str
    hue: Hue
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """How a picture is labelled: the unit of its heights, and what its ends are."""

    unit: str
    first: str
    last: str


def card_with(card: Card, picture: str) -> str:
    """Return a card as HTML, with a picture under what it says."""
    return f"{card_to_html(card).removesuffix('</section>')}{picture}</section>"


def stacked_columns(series: Sequence[Series], axis: Axis, label: str) -> str:
    """Draw columns, each as high as the sum of its parts.

    Parameters
    ----------
    series
        From the bottom up, all with a value for each column.
    axis
        Labels.
    label
        The picture in a sentence, for who cannot see it.

    Returns
    -------
    str
        A ``<figure>``; empty without a column.
    """
    count = len(series[0].values) if series else 0
    totals = [sum(one.values[index] for one in series) for index in range(count)]
    most = max(totals, default=0.0)
    if most <= 0:
        return ""
    slot = _PLOT_WIDTH / max(count, _FEWEST_SLOTS)
    gap = 1.0 if slot >= 5 else 0.0
    floors = [0.0] * count
    paths = []
    for one in series:
        path = ""
        for index, value in enumerate(one.values):
            if value > 0:
                height = value / most * _PLOT_HEIGHT
                bottom = _y(floors[index], most)
                path += (
                    f"M{index * slot:.2f} {bottom:.2f}v{-height:.2f}h{slot - gap:.2f}v{height:.2f}z"
                )
                floors[index] += value
        if path:
            paths.append(f'<path d="{path}" fill="var(--os-{one.hue})"/>')
    key = "".join(
        f'<span><i style="background:var(--os-{one.hue})"></i>{escape(one.name)}</span>'
        for one in series
        if any(one.values)
    )
    drawn = _lines(most, axis.unit) + "".join(paths) + _ends(axis, slot * count)
    return _figure(drawn, label, key)


def course(points: Sequence[tuple[float, float]], axis: Axis, label: str) -> str:
    """Draw a value over time, as steps.

    Parameters
    ----------
    points
        Where a step ends, from 0 on, and the value until there.
    axis, label
        As for `stacked_columns`.

    Returns
    -------
    str
        A ``<figure>``; empty without a step.
    """
    most = max((value for _until, value in points), default=0.0)
    if most <= 0 or points[-1][0] <= 0:
        return ""
    scale = _PLOT_WIDTH / points[-1][0]
    path = f"M0 {_y(points[0][1], most):.2f}"
    for until, value in points:
        path += f"V{_y(value, most):.2f}H{until * scale:.2f}"
    floor = _TOP + _PLOT_HEIGHT
    drawn = (
        f"{_lines(most, axis.unit)}"
        f'<path d="{path}V{floor}H0z" fill="var(--os-blue)" fill-opacity=".15"/>'
        f'<path d="{path}" fill="none" stroke="var(--os-blue)" stroke-width="1.5"/>'
        f"{_ends(axis, _PLOT_WIDTH)}"
    )
    return _figure(drawn, label, "")


def round_values(most: float) -> tuple[float, ...]:
    """Return up to three round values above 0 and up to `most`, evenly apart."""
    # Below the normal numbers a power of ten may be 0.
    if not sys.float_info.min <= most < math.inf:
        return ()
    magnitude = 10.0 ** math.floor(math.log10(most))
    steps = (0.2, 0.25, 0.5, 1, 2, 2.5, 5)
    step = next(one for one in steps if most / (one * magnitude) < _MOST_LINES + 1) * magnitude
    # A value that is round but for its last bits is round.
    count = min(math.floor(most / step + 1e-9), _MOST_LINES)
    return tuple(step * number for number in range(1, count + 1))


def _y(value: float, most: float) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - value / most)


def _lines(most: float, unit: str) -> str:
    lines = ""
    for value in (0.0, *round_values(most)):
        y = _y(value, most)
        lines += f'<line x1="0" x2="{_PLOT_WIDTH}" y1="{y:.2f}" y2="{y:.2f}"/>'
        if value:
            text = escape(f"{value:.4g} {unit}")
            lines += f'<text x="{_PLOT_WIDTH + 6}" y="{y + 4:.2f}">{text}</text>'
    return lines


def _ends(axis: Axis, width: float) -> str:
    y = _HEIGHT - 4
    last = f'<text x="{max(width, 90):.2f}" y="{y}" text-anchor="end">{escape(axis.last)}</text>'
    return f'<text x="0" y="{y}">{escape(axis.first)}</text>{last if axis.last else ""}'


def _figure(drawn: str, label: str, key: str) -> str:
    caption = f"<figcaption>{key}</figcaption>" if key else ""
    return (
        f"<figure><style>{_STYLE}</style>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{drawn}</svg>{caption}</figure>"
    )
