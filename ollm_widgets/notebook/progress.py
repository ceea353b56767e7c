"""One line of text that shows how far a load is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.notebook.printing import rewrite_line
from ollm_widgets.render.units import format_bytes, format_seconds
from ollm_widgets.session.loading import WAIT_STAGE

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress

_EVERY_S = 0.1


class ProgressLine:
    """Rewrites its line in place, in a notebook and in a terminal.

    Parameters
    ----------
    model
        What is loaded.
    whom
        Says for whom it waits, while it waits for room.
    """

    def __init__(self, model: object, whom: Callable[[], str] = str) -> None:
        self._model = str(model)
        self._whom = whom
        self._started = time.monotonic()
        self._written = 0.0
        self._shown = False

    def show(self, progress: LoadProgress) -> None:
        """Write the stage and its bytes, at most ten times a second."""
        now = time.monotonic()
        if progress.file is not None:
            return  # one line has room for the whole
        if self._shown and now - self._written < _EVERY_S:
            return
        self._written, self._shown = now, True
        if progress.stage == WAIT_STAGE:
            rewrite_line(self._whom() or "waits for room", self._model)
            return
        amount = ""
        if progress.total_bytes > 1:
            share = 100 * progress.done_bytes // progress.total_bytes
            amount = f", {share} % of {format_bytes(progress.total_bytes)}"
        rewrite_line(f"{progress.stage.lower()}{amount}", self._model)

    def end(self, outcome: str) -> None:
        """Say how it ended; nothing was shown for a model that was in memory already."""
        if self._shown:
            seconds = format_seconds(time.monotonic() - self._started)
            rewrite_line(f"{outcome} after {seconds}", self._model)
            sys.stdout.write("\n")
            self._shown = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self.end("ready" if kind is None else "failed")
        sys.stdout.flush()
