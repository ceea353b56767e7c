"""The Python that rebuilds a config."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ollm_widgets.planning.config import RuntimeConfig


def config_to_code(config: RuntimeConfig) -> str:
    """Return Python that binds `config` to an equal config; defaults are left out."""
    lines = [f"    {_literal(config.model_reference)},"]
    imports = ["from ollm_widgets import RuntimeConfig"]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "model_reference" or value == field.default:
            continue
        lines.append(f"    {field.name}={_literal(value)},")
        if isinstance(value, Path) and len(imports) == 1:
            imports.insert(0, "from pathlib import Path\n")
    return "\n".join((*imports, "", "config = RuntimeConfig(", *lines, ")", ""))


def _literal(value: object) -> str:
    if isinstance(value, Path):
        return f"Path({_literal(str(value))})"
    text = repr(value)
    if isinstance(value, str) and text[0] == "'" and '"' not in text:
        return f'"{text[1:-1]}"'
    return text
