"""The JSON Schema of the protocol, from which `js/src/protocol.ts` is generated."""

from __future__ import annotations

from typing import Any

import msgspec

from ollm_widgets.protocol.commands import AnyCommand, AnyReply
from ollm_widgets.protocol.events import AnyEvent
from ollm_widgets.protocol.snapshot import PROTOCOL_VERSION, Snapshot


def protocol_schema() -> dict[str, Any]:
    """Describe every message; the unions are `AnyEvent`, `AnyReply` and `AnyCommand`.

    Returns
    -------
    dict
        A JSON Schema whose definitions are the structs of the schema, and which
        requires one property per direction, so that a generator keeps each.
    """
    roots: dict[str, Any] = {
        "AnyEvent": AnyEvent,
        "AnyReply": AnyReply,
        "AnyCommand": AnyCommand,
        "Snapshot": Snapshot,
    }
    schemas, definitions = msgspec.json.schema_components(
        roots.values(), ref_template="#/$defs/{name}"
    )
    for name, schema in zip(roots, schemas, strict=True):
        if name not in definitions:
            definitions[name] = {
                key: value for key, value in schema.items() if key != "discriminator"
            }
    for definition in definitions.values():
        definition.pop("title", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Protocol",
        "description": "Messages between the kernel and the page.",
        "type": "object",
        "additionalProperties": False,
        "required": ["version", "event", "reply", "command", "snapshot"],
        "properties": {
            "version": {"const": PROTOCOL_VERSION},
            "event": {"$ref": "#/$defs/AnyEvent"},
            "reply": {"$ref": "#/$defs/AnyReply"},
            "command": {"$ref": "#/$defs/AnyCommand"},
            "snapshot": {"$ref": "#/$defs/Snapshot"},
        },
        "$defs": dict(sorted(definitions.items())),
    }
