"""Files that go with a question: what they may be, and what the model gets of them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from ollm_widgets.errors import ConfigError
from ollm_widgets.render.units import format_bytes

MOST_TEXT_BYTES = 1_000_000
MOST_IMAGE_BYTES = 20_000_000
MOST_FILES = 8  # with one question
MOST_OF_A_NAME = 120  # characters

# How the files begin that can be read as images.
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_BACKTICKS = re.compile(r"`+")
_WORD = re.compile(r"[A-Za-z0-9+#_-]{1,20}")

Kind = Literal["text", "image"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that was read.

    Parameters
    ----------
    id
        Its own, within a conversation.
    name
        Of the file, without its folder, fit to be shown.
    size_bytes
        Of the file.
    text
        Of a text file.
    image
        The bytes of an image file, which has been decoded once.
    thumbnail
        A small image as a data URL.
    """

    id: str
    name: str
    kind: Kind
    size_bytes: int
    text: str = ""
    image: bytes = b""
    thumbnail: str = ""


def kind_of(data: bytes) -> Kind:
    """Say what a file is, by its first bytes; whether it is whole shows when it is read."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return "image" if webp or data.startswith(_IMAGES) else "text"


def clean_name(name: str) -> str:
    """Return a file's name without its folder, and without what would not show as itself."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(
        character
        for character in last
        if unicodedata.category(character)[0] not in "CZ" or character == " "
    )
    shown = shown.replace("`", "'").strip()
    if len(shown) > MOST_OF_A_NAME:
        ending = PurePosixPath(shown).suffix[:12]
        shown = shown[: MOST_OF_A_NAME - len(ending) - 1] + "…" + ending
    return shown or "file"


def check_size(name: str, size_bytes: int, kind: Kind) -> None:
    """Refuse a file that is larger than its kind may be.

    Raises
    ------
    ConfigError
        With the file's size and the limit.
    """
    most = MOST_IMAGE_BYTES if kind == "image" else MOST_TEXT_BYTES
    if size_bytes > most:
        raise ConfigError(
            name,
            f"has {format_bytes(size_bytes)}; {'an image' if kind == 'image' else 'a text file'} "
            f"may have {format_bytes(most)}.",
            hint="Make it smaller, or attach a part of it.",
        )


def read_text(name: str, data: bytes) -> str:
    """Decode a text file, its line ends as newlines.

    Raises
    ------
    ConfigError
        If it is empty, too large, or no text in UTF-8.
    """
    check_size(name, len(data), "text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        raise ConfigError(
            name,
            "is neither text in UTF-8 nor a PNG, JPEG, GIF or WebP image.",
            hint="Save it as one of these first.",
        )
    if not text.strip():
        raise ConfigError(name, "is empty.", hint="Attach another file.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def fenced(name: str, text: str) -> str:
    """Return a text file as Markdown: its name, then its text in a fence that it cannot close."""
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    suffix = PurePosixPath(name).suffix[1:]
    language = suffix if _WORD.fullmatch(suffix) else ""
    end = "" if text.endswith("\n") else "\n"
    return f"File `{name}`:\n{fence}{language}\n{text}{end}{fence}"


def with_files(question: str, attachments: tuple[Attachment, ...]) -> str:
    """Return a question as the model reads it, after the text files that go with it."""
    texts = [fenced(one.name, one.text) for one in attachments if one.kind == "text"]
    return "\n\n".join((*texts, question))
