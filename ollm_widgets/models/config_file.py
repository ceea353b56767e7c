"""Reading a model's JSON files: bounded, never executed, typed access."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from ollm_widgets.errors import MalformedModelError, UnsafeModelError

JSONObject: TypeAlias = Mapping[str, object]

MAX_CONFIG_BYTES = 10_000_000
_LARGEST_DIMENSION = 1_000_000_000
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config")


def read_json_object(path: Path, limit_bytes: int = MAX_CONFIG_BYTES) -> JSONObject:
    """Read a JSON file whose content is an object.

    Parameters
    ----------
    path
        File to read.
    limit_bytes
        Largest file that is read at all.

    Raises
    ------
    UnsafeModelError
        When the file is larger than `limit_bytes`.
    MalformedModelError
        When it is not a regular file, not JSON, or not an object.
    """
    if not path.is_file():
        raise MalformedModelError(f"{path} is not a regular file.")
    with path.open("rb") as file:
        # A read reserves what it is asked for, so it is not asked for the limit.
        content = file.read(min(path.stat().st_size, limit_bytes) + 1)
    if len(content) > limit_bytes:
        raise UnsafeModelError(
            f"{path} has {path.stat().st_size:,} bytes; at most {limit_bytes:,} are read.",
            hint="A file of this kind is a few kB; get the model again from its source.",
        )
    return parse_json_object(str(path), content)


def parse_json_object(source: str, content: bytes) -> JSONObject:
    """Parse JSON whose content is an object; `source` names it in messages.

    Raises
    ------
    MalformedModelError
        When it is not JSON, or not an object.
    """
    try:
        # The standard library's parser, since configs may hold Infinity and integers of any size.
        decoded: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedModelError(
            f"{source} is not valid JSON: {error}.", hint="Get the file again from its source."
        ) from error
    if not isinstance(decoded, dict):
        raise MalformedModelError(
            f"{source} holds a JSON {type(decoded).__name__}, not an object.",
            hint="Get the file again from its source.",
        )
    return decoded


def read_config(folder: Path) -> JSONObject:
    """Read ``config.json`` of a model folder."""
    return read_json_object(folder / "config.json")


def text_config(config: JSONObject) -> JSONObject:
    """Part of the config that describes the decoder: nested in multimodal models."""
    thinker = config.get("thinker_config")
    if isinstance(thinker, dict):
        return text_config(thinker)
    for name in _TEXT_CONFIGS:
        nested = config.get(name)
        if isinstance(nested, dict):
            return nested
    return config


def read_int(config: JSONObject, *names: str) -> int | None:
    """First whole number among `names`, or ``None`` when none is set.

    Raises
    ------
    MalformedModelError
        When the value is negative.
    UnsafeModelError
        When it is beyond anything a model has.
    """
    for name in names:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if value < 0:
            raise MalformedModelError(f"The config says {name} = {value}; it cannot be negative.")
        if value > _LARGEST_DIMENSION:
            raise UnsafeModelError(
                f"The config says {name} = {value:,}; no model has more than "
                f"{_LARGEST_DIMENSION:,}."
            )
        return value
    return None


def read_text(config: JSONObject, *names: str) -> str | None:
    """First non-empty string among `names`."""
    for name in names:
        value = config.get(name)
        if isinstance(value, str) and value:
            return value
    return None
