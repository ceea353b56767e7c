"""What a widget shows now, as text that needs no kernel, no script and no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ollm_widgets.protocol.views import view_snapshot
from ollm_widgets.render.bars import bars_to_html
from ollm_widgets.render.card import Card
from ollm_widgets.render.html import card_body, section
from ollm_widgets.render.markdown import card_to_markdown
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.talk import talk_to_html, talk_to_markdown, talk_to_text
from ollm_widgets.render.text import card_to_text
from ollm_widgets.widgets.regions import (
    Region,
    activity_region,
    capabilities_region,
    chat_region,
    loading_region,
    memory_region,
    models_region,
    plan_region,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollm_widgets.protocol.snapshot import Snapshot
    from ollm_widgets.session.session import Session

_ALL: tuple[Callable[[Snapshot], Region | None], ...] = (
    plan_region,
    loading_region,
    chat_region,
    capabilities_region,
    activity_region,
    memory_region,
)
# A widget that is not named here shows all of them.
_REGIONS: Mapping[str, tuple[Callable[[Snapshot], Region | None], ...]] = {
    "ModelPicker": (models_region,),
    "PlanEditor": (plan_region,),
    "LoadPanel": (loading_region,),
    "CapabilityCard": (capabilities_region,),
    "Chat": (chat_region,),
    "RuntimeShelf": (memory_region,),
    "Activity": (activity_region,),
}
# What a widget of one region says while that region has nothing to show.
_NOTHING: Mapping[str, Card] = {
    "PlanEditor": Card("Plan", "There was none yet: no model was chosen."),
    "LoadPanel": Card("Loading", "Nothing was loaded yet."),
    "CapabilityCard": Card("Capabilities", "There was nothing to say yet: no model was chosen."),
    "Chat": Card("Chat", "Nothing was said yet."),
    "Activity": Card("Activity", "Nothing was generated yet."),
}
_STYLE = (
    "section.ollm-card.ollm-card{max-width:min(64em,100%)}"
    ".ollm-card .oc-region{margin-top:12px;padding-top:10px;border-top:1px solid var(--oc-l)}"
)


@dataclass(frozen=True, slots=True)
class Frozen(Renderable):
    """What a widget showed at one moment.

    Parameters
    ----------
    widget
        Its name.
    title
        The model in use.
    regions
        What there was to see, from the top.
    at
        When it was looked at, in the clock of whoever ran the cell.
    """

    widget: str
    title: str
    regions: tuple[Region, ...]
    at: datetime

    def card(self) -> Card:
        """Say of what it is, and when it was so."""
        when = self.at.strftime("%Y-%m-%d %H:%M")
        return Card(self.title, subtitle=f"{self.widget}, as it was on {when}")

    def to_html(self) -> str:
        """Return all regions as one piece of HTML that carries its own style."""
        return section(self.card(), "".join(map(_html, self.regions)), _STYLE)

    def to_markdown(self) -> str:
        """Return all regions as Markdown."""
        parts = [card_to_markdown(self.card())]
        for region in self.regions:
            parts.append(card_to_markdown(region.card))
            if region.turns:
                parts.append(talk_to_markdown(region.turns))
        return "\n\n".join(parts)

    def to_text(self) -> str:
        """Return all regions as lines for a terminal."""
        parts = [card_to_text(self.card())]
        for region in self.regions:
            lines = [card_to_text(region.card)]
            lines += [f"  {bar.title}: {bar.told}" for bar in region.bars]
            if region.turns:
                lines.append(talk_to_text(region.turns))
            parts.append("\n".join(lines))
        return "\n\n".join(parts)


def freeze(widget: str, session: Session) -> Frozen:
    """Look at what a widget shows of a session.

    Parameters
    ----------
    widget
        Name of its class.
    """
    snapshot = view_snapshot(session, 0)
    drawn = (draw(snapshot) for draw in _REGIONS.get(widget, _ALL))
    regions = tuple(region for region in drawn if region is not None)
    if not regions and widget in _NOTHING:
        regions = (Region(_NOTHING[widget]),)
    return Frozen(widget, snapshot.title, regions, datetime.now())


def _html(region: Region) -> str:
    body = card_body(region.card) + bars_to_html(region.bars) + talk_to_html(region.turns)
    return f'<div class="oc-region">{body}</div>'
