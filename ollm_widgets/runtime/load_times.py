"""How long each stage of a load takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ollm_widgets.planning.speed.predicted import LoadStage

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress, ProgressSink


class LoadTimes:
    """A stage lasts until the next one is first reported; used by one load, on its thread."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._stage = ""
        self._since = time.perf_counter()

    def enter(self, stage: str) -> None:
        """Begin a stage, and end the one before; nothing happens while it goes on."""
        if stage == self._stage:
            return
        self.end()
        self._stage = stage

    def end(self) -> None:
        """End the stage that goes on; until the next one is entered, no time counts."""
        now = time.perf_counter()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = "", now

    def watching(self, progress: ProgressSink) -> ProgressSink:
        """Return a sink that follows the stages and passes everything on."""

        def report(news: LoadProgress) -> None:
            self.enter(news.stage)
            progress(news)

        return report

    def stages(self) -> tuple[LoadStage, ...]:
        """Return the stages that have ended, in order."""
        return tuple(LoadStage(stage, seconds) for stage, seconds in self._seconds.items())
