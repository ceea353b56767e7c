"""Colours of static output, light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=str)

# Of the widgets, which name places and kinds by them: light and dark.
BLUE = ("#2a66cc", "#6ea2ff")
VIOLET = ("#7152c7", "#a68cf2")
BROWN = ("#8a6119", "#d6a552")
OLIVE = ("#44670f", "#a3c559")
GREEN = ("#157a68", "#4fc9b2")
ROSE = ("#ad4478", "#e58bb8")


def themed(selector: str, prefix: str, colors: Mapping[Name, tuple[str, str]]) -> str:
    """Return style rules that set ``--prefix-name`` to the light or the dark of two colours.

    Where a host says which theme it shows (JupyterLab, VS Code, Colab) they follow it rather than
    the operating system.
    """
    light = ";".join(f"--{prefix}-{name}:{color}" for name, (color, _dark) in colors.items())
    dark = ";".join(f"--{prefix}-{name}:{color}" for name, (_light, color) in colors.items())
    return (
        f"{selector}{{{light}}}"
        f"@media (prefers-color-scheme:dark){{{selector}{{{dark}}}}}"
        f"[data-jp-theme-light=true] {selector},.vscode-light {selector},"
        f"html[theme=light] {selector}{{{light}}}"
        f"[data-jp-theme-light=false] {selector},.vscode-dark {selector},"
        f"html[theme=dark] {selector}{{{dark}}}"
    )
