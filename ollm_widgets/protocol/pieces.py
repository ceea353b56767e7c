"""What several parts of the view are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Tone = Literal["neutral", "ok", "warn", "no"]
Place = Literal["gpu", "ram", "disk"]

ShortText = Annotated[str, Meta(max_length=4_096)]


class View(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what goes down: immutable, keyword-only, strict."""


class Chip(View, frozen=True):
    """A short verdict in a rounded frame."""

    text: str
    tone: Tone = "neutral"


class Problem(View, frozen=True):
    """An error as a person reads it."""

    code: str
    message: str
    hint: str = ""
