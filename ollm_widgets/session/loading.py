"""How far a load is: stages with bytes, rate and time left."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ollm_widgets.errors import OllmError

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress

# What the manager reports while something else has to leave memory first.
WAIT_STAGE = "Wait for room"
LoadState = Literal["idle", "loading", "cancelling", "loaded", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a load; times are ``time.monotonic``."""

    name: str
    started: float
    updated: float
    done_bytes: int = 0
    total_bytes: int = 0
    finished: bool = False
    files: tuple[Stage, ...] = ()  # each file of the stage, where it tells of files

    def at(self, now: float, done_bytes: int, total_bytes: int) -> Stage:
        """Give the stage as it is at `now`."""
        return replace(
            self,
            updated=now,
            done_bytes=done_bytes,
            total_bytes=total_bytes,
            finished=0 < total_bytes <= done_bytes,
        )

    @property
    def bytes_per_s(self) -> float:
        """Mean rate since the stage began; 0 before there is one."""
        elapsed = self.updated - self.started
        return self.done_bytes / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time left at the mean rate, None while unknown."""
        if not self.total_bytes or not self.bytes_per_s:
            return None
        return (self.total_bytes - self.done_bytes) / self.bytes_per_s


@dataclass(slots=True)
class Loading:
    """The load of a session, past or present.

    `stages` is replaced, never changed, so that a load reports without waiting for a reader.
    """

    state: LoadState = "idle"
    model: str = ""
    stages: tuple[Stage, ...] = ()
    error: OllmError | None = None
    started: float = 0.0
    seconds: float = 0.0

    @property
    def active(self) -> bool:
        """Whether a load runs."""
        return self.state in ("loading", "cancelling")

    @property
    def waited_s(self) -> float:
        """Seconds from the beginning until there was room; 0 where there was."""
        for stage, after in zip(self.stages, self.stages[1:], strict=False):
            if stage.name == WAIT_STAGE:
                return after.started - self.started
        return 0.0

    def begin(self, model: str) -> None:
        """Start anew."""
        self.state, self.model, self.error = "loading", model, None
        self.stages = ()
        self.started = time.monotonic()

    def report(self, progress: LoadProgress) -> None:
        """Take in one progress record; a new stage ends those before it."""
        now = time.monotonic()
        before = {stage.name: stage for stage in self.stages}
        if progress.stage not in before:
            before = {name: replace(stage, finished=True) for name, stage in before.items()}
        stage = before.get(progress.stage, Stage(progress.stage, now, now))
        if progress.file is None:
            stage = stage.at(now, progress.done_bytes, progress.total_bytes)
        else:
            files = {file.name: file for file in stage.files}
            file = files.get(progress.file, Stage(progress.file, now, now))
            files[progress.file] = file.at(now, progress.done_bytes, progress.total_bytes)
            stage = replace(stage, files=tuple(files.values()))
        before[progress.stage] = stage
        self.stages = tuple(before.values())

    def end(self, state: LoadState, error: OllmError | None = None) -> None:
        """Remember how it ended."""
        self.state, self.error = state, error
        self.seconds = time.monotonic() - self.started
        if state == "loaded":
            self.stages = tuple(replace(stage, finished=True) for stage in self.stages)
