"""Objects that show themselves as a table wherever others show a card."""

from __future__ import annotations

from abc import abstractmethod

from ollm_widgets.render.card import Card
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.table import Table
from ollm_widgets.render.table_drawing import table_to_html, table_to_markdown, table_to_text


class Tabular(Renderable):
    """Gives an object that can say its `table` every rich representation of a notebook."""

    __slots__ = ()

    @abstractmethod
    def table(self) -> Table:
        """Return what a table of this object says."""

    def card(self) -> Card:
        """Return the table in words."""
        return self.table().as_card()

    def to_html(self) -> str:
        """Return the table as a piece of HTML that needs nothing from the page around it."""
        return table_to_html(self.table())

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        return table_to_markdown(self.table())

    def to_text(self) -> str:
        """Return the table as aligned lines for a terminal."""
        return table_to_text(self.table())
