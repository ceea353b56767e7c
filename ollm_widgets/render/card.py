"""What a small card says, independent of how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["neutral", "ok", "warn", "no"]


@dataclass(frozen=True, slots=True)
class Row:
    """A term and what is said of it.

    Parameters
    ----------
    term
        Where it is empty the text takes the whole width.
    text
        What is said; its line breaks are kept.
    tone
        What it means.
    is_code
        Whether the text is code, to be drawn as such.
    """

    term: str
    text: str
    tone: Tone = "neutral"
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """The content of a card.

    Parameters
    ----------
    title
        What the card is about.
    subtitle
        One quieter line under the title.
    badge
        A verdict of one or two words.
    tone
        What the badge means: good, with care, or not at all.
    rows
        The facts, in the order a person asks for them.
    """

    title: str
    subtitle: str = ""
    badge: str = ""
    tone: Tone = "neutral"
    rows: tuple[Row, ...] = ()
