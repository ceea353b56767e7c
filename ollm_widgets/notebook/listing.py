"""What ``%ollm list`` shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable

if TYPE_CHECKING:
    from ollm_widgets.session.shelf import ListedModel


@dataclass(frozen=True, slots=True)
class ModelListing(Renderable):
    """The catalog and the models on this machine, with a verdict each."""

    models: tuple[ListedModel, ...]
    loaded: tuple[str, ...]

    def card(self) -> Card:
        """One row a model."""
        return Card(
            title="Models",
            subtitle=f"in memory: {', '.join(self.loaded) or 'none'}",
            rows=tuple(
                Row(model.name, model.problem or "ready to load", "neutral")
                for model in self.models
            ),
        )
