"""The parts of a session that change and are shown on their own."""

from __future__ import annotations

from typing import Literal, Protocol

Part = Literal["header", "models", "plan", "loading", "capabilities", "memory", "chat", "activity"]
PARTS: tuple[Part, ...] = (
    "header",
    "models",
    "plan",
    "loading",
    "capabilities",
    "memory",
    "chat",
    "activity",
)


class Changed(Protocol):
    """Says that parts have changed, and by which job."""

    def __call__(self, *parts: Part, job: str | None = None) -> None:
        """Take note."""
