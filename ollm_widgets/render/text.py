"""A card as aligned lines for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollm_widgets.render.card import Card

WIDTH = 96
_TERM_WIDTH = 22


def card_to_text(card: Card, width: int = WIDTH) -> str:
    """Return the card as lines of at most `width` characters, its terms in one column."""
    title = printable(card.title)
    lines = [f"{title} [{printable(card.badge)}]" if card.badge else title]
    if card.subtitle:
        lines.append(printable(card.subtitle))
    terms = [printable(row.term) for row in card.rows]
    column = min(max((len(term) for term in terms), default=0), _TERM_WIDTH)
    for term, row in zip(terms, card.rows, strict=True):
        text = printable(row.text)
        if not term:
            lines += _wrapped(text, width, "  ", "  ")
        elif len(term) > column:
            lines.append(f"  {term}")
            lines += _wrapped(text, width, " " * (column + 4), " " * (column + 4))
        else:
            lines += _wrapped(text, width, f"  {term:<{column}}  ", " " * (column + 4))
    return "\n".join(line.rstrip() for line in lines)


def _wrapped(text: str, width: int, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    ) or [first]


def printable(text: str) -> str:
    """Keep a model's name or message from moving the cursor or colouring the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
