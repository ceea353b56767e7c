"""What a person gets from `LoadedRuntime.trace`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.units import format_seconds

if TYPE_CHECKING:
    from ollm_widgets.weights.trace import PassTrace


@dataclass(slots=True)
class Trace(Renderable):
    """Passes in the order in which they ran: one a prompt, one a token."""

    passes: list[PassTrace] = field(default_factory=list)

    def card(self) -> Card:
        """Say how many passes there were, and where their time went."""
        layers = [layer for each in self.passes for layer in each.layers]
        total = sum(each.total_s for each in self.passes)
        parts = {
            "Waiting for disk": sum(layer.disk_wait_s for layer in layers),
            "Waiting for copies": sum(layer.device_copy_s for layer in layers),
            "Unpacking": sum(layer.unpack_s for layer in layers),
            "Computing": sum(layer.compute_s for layer in layers),
        }
        return Card(
            title="Trace",
            subtitle=f"{len(self.passes)} passes in {format_seconds(total)}",
            rows=tuple(
                Row(what, f"{format_seconds(seconds)}, {seconds / total:.0%}")
                for what, seconds in parts.items()
                if total
            ),
        )
