"""One load that several callers wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.backends.base import LoadProgress, ProgressSink
from ollm_widgets.errors import Cancelled
from ollm_widgets.runtime.worker import WAIT_SLICE_S

if TYPE_CHECKING:
    from ollm_widgets.runtime.residency import Resident


class Flight:
    """A load on its own thread; its passengers see its progress and may leave."""

    def __init__(self, name: str, load: Callable[[Flight], Resident]) -> None:
        self.name = name
        self.cancel = threading.Event()
        self._load = load
        self._lock = threading.Lock()
        self._passengers = 0
        self._sinks: list[ProgressSink] = []
        self._latest: dict[str, LoadProgress] = {}
        self._landed = threading.Event()
        self._resident: Resident | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin to load."""
        threading.Thread(target=self._run, name=f"ollm-load-{self.name}", daemon=True).start()

    def board(self, progress: ProgressSink | None) -> None:
        """Wait from now on; a late passenger first sees the stages so far."""
        with self._lock:
            self._passengers += 1
            if progress is not None:
                self._sinks.append(progress)
                for latest in self._latest.values():
                    progress(latest)

    def leave(self, progress: ProgressSink | None) -> None:
        """Wait no longer; when the last one leaves, the load is cancelled."""
        with self._lock:
            self._passengers -= 1
            if progress is not None:
                self._sinks.remove(progress)
            if self._passengers == 0:
                self.cancel.set()

    def wait(self, cancel: threading.Event | None) -> Resident:
        """Wait until the load ends, or until `cancel` is set.

        Raises
        ------
        Cancelled
            When `cancel` was set first.
        """
        while not self._landed.wait(WAIT_SLICE_S):
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"Loading {self.name} was cancelled.")
        if self._error is not None:
            raise self._error
        if self._resident is None:
            raise Cancelled(f"Loading {self.name} was cancelled.")
        return self._resident

    def report(self, progress: LoadProgress) -> None:
        """Tell every passenger how far the load is; called on the load's thread."""
        with self._lock:
            self._latest[progress.stage] = progress
            sinks = tuple(self._sinks)
        for sink in sinks:
            sink(progress)

    def _run(self) -> None:
        try:
            self._resident = self._load(self)
        except BaseException as error:  # each passenger raises it, whatever it is
            self._error = error
        finally:
            self._landed.set()
