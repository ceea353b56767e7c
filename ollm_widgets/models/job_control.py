"""How a long operation reports progress and hears that it is no longer wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ollm_widgets.errors import Cancelled

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as ``progress(stage, done_bytes, total_bytes)``."""


class CancelFlag(Protocol):
    """The half of `threading.Event` that a long operation looks at."""

    def is_set(self) -> bool:
        """Whether somebody asked to stop."""


def raise_if_cancelled(cancel: CancelFlag | None, operation: str) -> None:
    """Raise `Cancelled` when the flag is set."""
    if cancel is not None and cancel.is_set():
        raise Cancelled(f"{operation} was cancelled.")


def report(progress: Progress | None, stage: str, done_bytes: int, total_bytes: int) -> None:
    """Tell `progress`, if there is one."""
    if progress is not None:
        progress(stage, done_bytes, total_bytes)
