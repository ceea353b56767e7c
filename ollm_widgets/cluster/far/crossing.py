"""What a request carries to another machine: plain values, and images as bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ollm_widgets.runtime.images import SOURCES, open_image
from ollm_widgets.runtime.prompt import Prompt


def carried(prompt: Prompt) -> Prompt:
    """Return a prompt that means the same on another machine; the host checks the rest of it.

    A path is a file of this machine, so that its image is read here. It is read with the same
    care as one that stays, and crosses without loss.

    Raises
    ------
    ConfigError
        For an image that cannot be read.
    """
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return prompt
    return [_message(message, index) for index, message in enumerate(prompt)]


def _message(message: Any, index: int) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str | bytes) or not isinstance(content, Sequence):
        return message
    parts = [_part(part, f"messages[{index}].content[{at}]") for at, part in enumerate(content)]
    return {**message, "content": parts}


def _part(part: Any, at: str) -> Any:
    if not isinstance(part, Mapping) or part.get("type") != "image":
        return part
    given = [part[name] for name in SOURCES if part.get(name) is not None]
    if len(given) == 1 and isinstance(given[0], bytes):
        return dict(part)
    written = io.BytesIO()
    open_image(part, at).save(written, format="PNG")
    return {"type": "image", "image": written.getvalue()}
