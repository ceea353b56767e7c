"""A conversation as messages: what goes to the model, and what comes out as Markdown or code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ollm_widgets.runtime.images import open_image
from ollm_widgets.session.attachments import fenced, with_files
from ollm_widgets.session.transcript import Said, Turn

Message = dict[str, Any]

_ABOUT_STATE = {"stopped": "stopped", "failed": "failed", "waiting": "not answered yet"}


def messages_of(instructions: str, said: Iterable[Said]) -> list[Message]:
    """Return messages with ``role`` and ``content``; images are decoded.

    A message with images has a list of parts as content, the images before the text.
    """
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    for one in said:
        text = with_files(one.text, one.attachments)
        images = [
            {"type": "image", "image": open_image({"image": file.image}, file.name)}
            for file in one.attachments
            if file.kind == "image"
        ]
        content = [*images, {"type": "text", "text": text}] if images else text
        messages.append({"role": one.role, "content": content})
    return messages


def has_images(said: Iterable[Said]) -> bool:
    """Whether any message goes with an image."""
    return any(file.kind == "image" for one in said for file in one.attachments)


def python_of(instructions: str, said: Iterable[Said]) -> str:
    """Return Python that builds the messages; images are opened by the names of their files."""
    said = list(said)
    lines = ["from PIL import Image", ""] if has_images(said) else []
    lines.append("messages = [")
    if instructions:
        lines.append(f'    {{"role": "system", "content": {instructions!r}}},')
    for one in said:
        text = repr(with_files(one.text, one.attachments))
        images = [
            f'{{"type": "image", "image": Image.open({file.name!r})}}'
            for file in one.attachments
            if file.kind == "image"
        ]
        if images:
            text = "[" + ", ".join((*images, f'{{"type": "text", "text": {text}}}')) + "]"
        lines.append(f'    {{"role": "{one.role}", "content": {text}}},')
    lines.append("]")
    return "\n".join(lines) + "\n"


def markdown_of(instructions: str, turns: Sequence[Turn]) -> str:
    """Return the turns that are shown as Markdown, files and how answers came about included."""
    parts = ["# Conversation"]
    if instructions:
        parts += ["## Instructions", instructions.strip()]
    for turn in turns:
        parts.append("## You" if turn.speaker == "you" else "## Model")
        for file in turn.attachments:
            parts.append(
                fenced(file.name, file.text) if file.kind == "text" else f"Image `{file.name}`"
            )
        if turn.text.strip():
            parts.append(turn.text.strip())
        state = _ABOUT_STATE.get(turn.state, "")
        note = (
            turn.note
            if state and state in turn.note.lower()
            else ": ".join(filter(None, (state, turn.note)))
        )
        if note:
            parts.append(f"*{note}*")
    return "\n\n".join(parts) + "\n"
