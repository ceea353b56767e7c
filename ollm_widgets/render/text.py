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
        text = row.text
        if not term:
            lines += _wrapped(text, width, "  ", "  ")
        elif len(term) > column:
            lines.append(f"  {term}")
            lines += _wrapped(text, width, " " * (column + 4), " " * (column + 4))
        else:
            lines += _wrapped(text, width, f"  {term:<{column}}  ", " " * (column + 4))
    return "\n".join(line.rstrip() for line in lines)


def _wrapped(text: str, width: int, first: str, later: str) -> list[str]:
    """Wrap each line of a text under the column where it begins."""
    lines: list[str] = []
    for line in text.splitlines() or [""]:
        # What a line of code is set in by says what it belongs to.
        indent = " " * (len(line) - len(line.lstrip(" "))) if lines else ""
        lines += textwrap.wrap(
            printable(line),
            width,
            initial_indent=later + indent if lines else first,
            subsequent_indent=later + indent,
            break_on_hyphens=False,
        ) or ["" if lines else first]
    return lines


def printable(text: str) -> str:
    """Keep a model's name or message from moving the cursor or colouring the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
