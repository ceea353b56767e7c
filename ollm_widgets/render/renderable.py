"""The mixin that gives an object with a card every rich representation of a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from ollm_widgets.render.card import Card
from ollm_widgets.render.html import card_to_html
from ollm_widgets.render.markdown import card_to_markdown
from ollm_widgets.render.text import card_to_text


class PrettyPrinter(Protocol):
    """The part of IPython's pretty printer that a representation needs."""

    def text(self, obj: str) -> object:
        """Write `obj`."""
        ...


class Renderable(ABC):
    """Gives an object that can say its `card` every rich representation of a notebook."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # IPython asks class by class, and would meet a dataclass's own __repr__ first.
        if "_repr_pretty_" not in cls.__dict__:
            cls._repr_pretty_ = Renderable._repr_pretty_  # type: ignore[method-assign]

    @abstractmethod
    def card(self) -> Card:
        """Return what a small card about this object says."""

    def to_html(self) -> str:
        """Return the card as a piece of HTML that needs nothing from the page around it."""
        return card_to_html(self.card())

    def to_markdown(self) -> str:
        """Return the card as Markdown with a table."""
        return card_to_markdown(self.card())

    def to_text(self) -> str:
        """Return the card as aligned lines for a terminal."""
        return card_to_text(self.card())

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return self.to_html()

    def _repr_pretty_(self, p: PrettyPrinter, cycle: bool) -> None:
        p.text(f"{type(self).__name__}(...)" if cycle else self.to_text())
