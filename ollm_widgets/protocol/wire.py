"""Messages and snapshots as plain data that can be sent."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def as_plain_data(message: msgspec.Struct) -> dict[str, Any]:
    """Return `message` as what JSON in UTF-8 can carry.

    Half a surrogate pair, which the name of a folder or the text of a config may hold, becomes a
    question mark: it would keep everything else from the page.
    """
    return measured(message)[0]


def measured(message: msgspec.Struct) -> tuple[dict[str, Any], int]:
    """Return `as_plain_data`, and how many bytes of JSON it makes."""
    plain: dict[str, Any] = msgspec.to_builtins(message)
    try:
        return plain, len(msgspec.json.encode(message))
    except UnicodeEncodeError:
        sendable = json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace")
        plain = json.loads(sendable)
        return plain, len(msgspec.json.encode(plain))
