"""``python -m ollm_widgets.protocol``: print the protocol as JSON Schema."""

from __future__ import annotations

import json
import sys

from ollm_widgets.protocol.schema import protocol_schema

sys.stdout.write(json.dumps(protocol_schema(), indent=2) + "\n")
