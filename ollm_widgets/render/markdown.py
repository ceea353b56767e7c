"""A card as Markdown: a bold title and a table, readable where no kernel runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollm_widgets.render.card import Card

# Inside a word an underscore is plain text in GitHub's Markdown, so ids stay legible.
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")


def card_to_markdown(card: Card) -> str:
    """Return the card as Markdown with a two-column table."""
    title = f"**{escaped(card.title)}**"
    parts = [f"{title} ({escaped(card.badge)})" if card.badge else title]
    if card.subtitle:
        parts.append(escaped(card.subtitle))
    if card.rows:
        lines = [f"| {escaped(row.term)} | {escaped(row.text)} |" for row in card.rows]
        parts.append("\n".join(("|  |  |", "|---|---|", *lines)))
    return "\n\n".join(parts)


def escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    # Half a surrogate pair, which the name of a folder may hold, could not be sent to a page.
    flat = " ".join(text.split()).encode("utf-8", "replace").decode()
    safe = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(lambda match: "\\" + match.group(), safe)
