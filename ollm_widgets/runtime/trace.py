"""What a person gets from `LoadedRuntime.trace`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.svg import Axis, Hue, Series, card_with, stacked_columns
from ollm_widgets.render.units import format_seconds
from ollm_widgets.runtime.token_time import (
    LEAST_SHARE,
    PART_NAMES,
    PartKind,
    precise,
    token_times,
    where,
)

if TYPE_CHECKING:
    from ollm_widgets.weights.trace import PassTrace

# What a person looks for, also where it took no time.
_ALWAYS: tuple[PartKind, ...] = ("disk", "copy", "unpack", "compute")
# As in the widgets: what waits has the colour of the place that it waits for.
_HUES: dict[PartKind, Hue] = {
    "disk": "brown",
    "copy": "violet",
    "unpack": "olive",
    "compute": "blue",
    "choose": "rose",
    "between": "grey",
}


@dataclass(slots=True)
class Trace(Renderable):
    """Passes in the order in which they ran: one a prompt, one a token.

    Steps stay captured while they are traced. So that this costs little, short steps are recorded
    one in a few: `unrecorded_steps` are missing from `passes`, and the ``position`` of a pass says
    which token it was.
    """

    passes: list[PassTrace] = field(default_factory=list)

    @property
    def captured_steps(self) -> int:
        """Passes that were captured steps."""
        return sum(each.captured for each in self.passes)

    @property
    def unrecorded_steps(self) -> int:
        """Captured steps that ran in between and were not recorded."""
        return sum(each.unrecorded for each in self.passes)

    def to_html(self) -> str:
        """Return the card with a picture of each token's time."""
        return card_with(self.card(), self._picture())

    def card(self) -> Card:
        """Say how many passes there were, and where their time went."""
        times = token_times(self.passes)
        together = {kind: sum(each.parts[kind] for each in times) for kind in PART_NAMES}
        total = sum(together.values())
        rows = [
            Row(PART_NAMES[kind], f"{format_seconds(seconds)}, {seconds / total:.0%}")
            for kind, seconds in together.items()
            if total and (kind in _ALWAYS or seconds / total >= LEAST_SHARE)
        ]
        if self.unrecorded_steps:
            steps = self.captured_steps + self.unrecorded_steps
            rows.append(Row("Recorded", f"{self.captured_steps} of {steps} captured steps"))
        notes = dict.fromkeys(each.note for each in self.passes if each.note)
        rows += [
            Row("", f"Traced steps run one operation at a time: {note}.", "warn") for note in notes
        ]
        return Card(
            title="Trace",
            subtitle=f"{_passes(len(self.passes))} in {format_seconds(total)}",
            rows=tuple(rows),
        )

    def _picture(self) -> str:
        """Draw the time of each pass that gave one token, in its parts."""
        steps = [each for each in token_times(self.passes) if not each.prompt_tokens]
        if not steps:
            return ""
        series = [
            Series(name, _HUES[kind], tuple(each.parts[kind] * 1000 for each in steps))
            for kind, name in PART_NAMES.items()
        ]
        mean = precise(sum(each.total_s for each in steps) / len(steps))
        together = {kind: sum(each.parts[kind] for each in steps) for kind in PART_NAMES}
        label = f"{_passes(len(steps))} of one token took {mean} each: {where(together)}."
        return stacked_columns(series, Axis("ms", "each token", f"{mean} on average"), label)


def _passes(count: int) -> str:
    return "1 pass" if count == 1 else f"{count} passes"
