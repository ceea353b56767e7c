"""One load, or one return from host memory, that several callers wait for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import Cancelled
from ollm_widgets.runtime.letting_go import let_go
from ollm_widgets.runtime.residency.failing import copy_of
from ollm_widgets.runtime.worker import WAIT_SLICE_S

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress, ProgressSink
    from ollm_widgets.runtime.residency.records import Resident
    from ollm_widgets.runtime.residency.steps import Journey

_log = logging.getLogger(__name__)


class Flight:
    """A journey on its own thread; its passengers see its progress and may leave.

    Parameters
    ----------
    journey
        What the ledger knows of it.
    fly
        The whole of it; returns what came into memory.
    """

    def __init__(self, journey: Journey, fly: Callable[[Flight], Resident]) -> None:
        self.journey = journey
        self.name = journey.name
        self.cancel = threading.Event()
        self._fly = fly
        self._lock = threading.Lock()
        self._sinks: list[ProgressSink] = []
        self._latest: dict[str, LoadProgress] = {}
        self._ended = threading.Event()
        self._resident: Resident | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name=f"ollm-load-{self.name}", daemon=True).start()

    def watch(self, sink: ProgressSink) -> None:
        """Report to `sink` from now on; a late passenger first sees the stages so far."""
        told: dict[str, LoadProgress] = {}
        while True:
            with self._lock:
                news = [one for stage, one in self._latest.items() if told.get(stage) != one]
                if not news:
                    self._sinks.append(sink)
                    return
            # Told outside the lock, so what is reported meanwhile is told in the next round.
            for progress in news:
                sink(progress)
                told[progress.stage] = progress

    def unwatch(self, sink: ProgressSink) -> None:
        """Report to `sink` no longer; harmless for one that was never told."""
        with self._lock:
            if sink in self._sinks:
                self._sinks.remove(sink)

    def wait(self, cancel: threading.Event | None) -> Resident:
        """Wait until it has ended, or until `cancel` is set.

        Raises
        ------
        Cancelled
            When `cancel` was set first.
        """
        while not self._ended.wait(WAIT_SLICE_S):
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"Loading {self.name} was cancelled.")
        if self._error is not None:
            raise copy_of(self._error)
        if self._resident is None:
            raise Cancelled(f"Loading {self.name} was cancelled.")
        return self._resident

    def report(self, progress: LoadProgress) -> None:
        """Tell every passenger how far it is; called on its own thread."""
        with self._lock:
            self._latest[progress.stage] = progress
            sinks = tuple(self._sinks)
        for sink in sinks:
            try:
                sink(progress)
            except Exception:
                # It is one passenger's trouble, and no reason to end the load of the others.
                _log.exception("A progress sink failed; it is not called again.")
                self.unwatch(sink)

    def fail(self, error: BaseException) -> None:
        """End it before it has begun."""
        self._error = error
        self._ended.set()

    def _run(self) -> None:
        try:
            self._resident = self._fly(self)
        except BaseException as error:  # each passenger raises it, whatever it is
            let_go(error)
            self._error = error
        finally:
            self._ended.set()
