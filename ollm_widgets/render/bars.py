"""Memory as bars, drawn to scale: HTML without a script, which is a list where styles are lost."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal, TypeAlias

from ollm_widgets.render import themes
from ollm_widgets.render.themes import themed
from ollm_widgets.render.units import format_memory

Paint: TypeAlias = Literal["gpu", "ram", "disk", "buffers", "kv", "work", "used"]

_COLORS: dict[Paint, tuple[str, str]] = {
    "gpu": themes.BLUE,
    "ram": themes.VIOLET,
    "disk": themes.BROWN,
    "buffers": themes.OLIVE,
    "kv": themes.GREEN,
    "work": themes.ROSE,
    "used": ("#b9bdc4", "#4c515a"),
}
_STYLE = (
    themed(".ollm-card .oc-bars", "ob", _COLORS) + ".ollm-card .oc-bars{margin:10px 0 0}"
    ".ollm-card .oc-bar+.oc-bar{margin-top:8px}"
    ".ollm-card .oc-bar>p{display:flex;justify-content:space-between;gap:14px;margin:0 0 3px;"
    "color:var(--oc-d);font-size:12px}"
    ".ollm-card .oc-bar>p b{font-weight:600;color:var(--oc-i)}"
    ".ollm-card .oc-track{position:relative;display:flex;height:12px;overflow:hidden;"
    "border-radius:3px;background:color-mix(in srgb,var(--oc-d) 14%,transparent)}"
    ".ollm-card .oc-track>i{flex:none;box-shadow:inset -1px 0 var(--oc-b)}"
    ".ollm-card .oc-track>.oc-limit{position:absolute;top:0;bottom:0;width:2px;"
    "background:var(--oc-i);box-shadow:none}"
    # JupyterLab and exported pages indent the lists of outputs.
    "section.ollm-card ul.oc-parts{display:flex;flex-wrap:wrap;gap:0 14px;margin:3px 0 0;padding:0;"
    "list-style:none;color:var(--oc-d);font-size:12px}"
    "section.ollm-card ul.oc-parts>li{margin:0}"
    ".ollm-card .oc-parts i{display:inline-block;width:9px;height:9px;margin-right:5px;"
    "border-radius:2px}"
    + "".join(f".ollm-card .oc-p-{paint}{{background:var(--ob-{paint})}}" for paint in _COLORS)
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a bar.

    Parameters
    ----------
    label
        What it is.
    size_bytes
        How much of the memory it takes.
    paint
        Its colour: that of a place for weights, else that of what it is.
    """

    label: str
    size_bytes: int
    paint: Paint


@dataclass(frozen=True, slots=True)
class Bar:
    """One memory.

    Parameters
    ----------
    title, text
        Its name, and how full it is in words.
    capacity_bytes
        What the whole bar stands for, unless the stretches take more.
    stretches
        From the left.
    limit_bytes
        What the plan must stay below, from the left; 0 where nothing bounds it.
    """

    title: str
    text: str
    capacity_bytes: int
    stretches: tuple[Stretch, ...]
    limit_bytes: int = 0

    @property
    def told(self) -> str:
        """The bar in words: ``"30 layers 257 MiB, KV 90 MiB"``."""
        return ", ".join(f"{one.label} {format_memory(one.size_bytes)}" for one in self.stretches)


def bars_to_html(bars: tuple[Bar, ...]) -> str:
    """Return the bars as one ``<div>`` for the body of a card; empty without a bar."""
    drawn = "".join(map(_bar, bars))
    return f'<div class="oc-bars"><style>{_STYLE}</style>{drawn}</div>' if drawn else ""


def _bar(bar: Bar) -> str:
    filled = sum(stretch.size_bytes for stretch in bar.stretches)
    whole = max(bar.capacity_bytes, filled, 1)
    drawn = "".join(
        f'<i class="oc-p-{stretch.paint}" style="width:{100 * stretch.size_bytes / whole:.3f}%" '
        f'title="{_said(stretch)}"></i>'
        for stretch in bar.stretches
    )
    if 0 < bar.limit_bytes < whole:
        drawn += f'<i class="oc-limit" style="left:{100 * bar.limit_bytes / whole:.3f}%"></i>'
    parts = "".join(
        f'<li><i class="oc-p-{stretch.paint}"></i>{_said(stretch)}</li>'
        for stretch in bar.stretches
    )
    told = escape(f"{bar.title}: {bar.text}. {bar.told}")
    return (
        f'<div class="oc-bar"><p><b>{escape(bar.title)}</b> <span>{escape(bar.text)}</span></p>'
        f'<div class="oc-track" role="img" aria-label="{told}">{drawn}</div>'
        f'<ul class="oc-parts">{parts}</ul></div>'
    )


def _said(stretch: Stretch) -> str:
    return escape(f"{stretch.label} {format_memory(stretch.size_bytes)}")
