"""How far a load is: stages with bytes, rate and time left."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ollm_widgets.errors import OllmError

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress

LoadState = Literal["idle", "loading", "cancelling", "loaded", "cancelled", "failed"]


@dataclass(slots=True)
class Stage:
    """One stage of a load; times are ``time.monotonic``."""

    name: str
    started: float
    updated: float
    done_bytes: int = 0
    total_bytes: int = 0
    finished: bool = False

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
    """The load of a session, past or present."""

    state: LoadState = "idle"
    model: str = ""
    stages: list[Stage] = field(default_factory=list)
    error: OllmError | None = None
    started: float = 0.0
    seconds: float = 0.0

    @property
    def active(self) -> bool:
        """Whether a load runs."""
        return self.state in ("loading", "cancelling")

    def begin(self, model: str) -> None:
        """Start anew."""
        self.state, self.model, self.error = "loading", model, None
        self.stages.clear()
        self.started = time.monotonic()

    def report(self, progress: LoadProgress) -> None:
        """Take in one progress record; a new stage ends those before it."""
        now = time.monotonic()
        stage = next((one for one in self.stages if one.name == progress.stage), None)
        if stage is None:
            for earlier in self.stages:
                earlier.finished = True
            stage = Stage(progress.stage, now, now)
            self.stages.append(stage)
        stage.updated = now
        stage.done_bytes, stage.total_bytes = progress.done_bytes, progress.total_bytes
        stage.finished = 0 < progress.total_bytes <= progress.done_bytes

    def end(self, state: LoadState, error: OllmError | None = None) -> None:
        """Remember how it ended."""
        self.state, self.error = state, error
        self.seconds = time.monotonic() - self.started
        if state == "loaded":
            for stage in self.stages:
                stage.finished = True
