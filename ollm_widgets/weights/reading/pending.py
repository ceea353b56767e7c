"""A read under way: its items, shared by threads; waiting for it and cancelling it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ollm_widgets.errors import Cancelled, OllmError

# How soon a cancel is noticed by one who waits; the end of the read wakes them at once.
_LOOK_EVERY_S = 0.02


class PendingRead:
    """A read that other threads do.

    Parameters
    ----------
    items
        How many items there are.
    run
        Does an item, by its number.
    check
        What speaks against the files, asked before the first item and after the last.
    finished
        Called once, when nothing is or will be under way.
    """

    def __init__(
        self,
        items: int,
        run: Callable[[int], None],
        check: Callable[[], OllmError | None],
        finished: Callable[[PendingRead], None],
    ) -> None:
        self._items = items
        self._run: Callable[[int], None] | None = run
        self._check = check
        self._on_finished = finished
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._next = 0
        self._active = 0
        self._complete = False
        self._stopped = False
        self._error: BaseException | None = None

    def wait(self, cancel: threading.Event | None = None) -> None:
        """Wait until the buffer is filled.

        Parameters
        ----------
        cancel
            Ends the wait, and the read, when it is set.

        Raises
        ------
        WeightReadError
            When bytes could not be read; nothing is written to the buffer any more.
        CheckpointChangedError
            When a file is not what it was.
        Cancelled
            When the read was cancelled, here or elsewhere.
        """
        if cancel is None:
            self._finished.wait()
        else:
            while not self._finished.is_set():
                if cancel.is_set():
                    self.cancel()
                self._finished.wait(_LOOK_EVERY_S)
        if self._error is not None:
            raise self._error
        if not self._complete:
            raise Cancelled("The read of the weights was cancelled.")

    def done(self) -> bool:
        """Whether it is over: filled, failed or cancelled."""
        return self._finished.is_set()

    def cancel(self) -> None:
        """End the read; when this returns, no byte is written to the buffer any more."""
        with self._lock:
            self._stopped = True
            over = self._active == 0
        if over:
            self._finish()
        self._finished.wait()

    def begin(self, submit: Callable[..., Any], threads: int) -> None:
        """Hand the items to at most so many threads."""
        self._error = self._check()
        if self._error is not None or self._items == 0:
            self._complete = self._error is None
            self._finish()
            return
        for _ in range(min(threads, self._items)):
            submit(self._drain)

    def _drain(self) -> None:
        """Do items until none is left."""
        while (number := self._take()) is not None:
            error: BaseException | None = None
            try:
                if self._run is not None:
                    self._run(number)
            except BaseException as raised:
                error = raised
            self._give_back(error)

    def _take(self) -> int | None:
        with self._lock:
            if self._stopped or self._next == self._items:
                return None
            self._active += 1
            self._next += 1
            return self._next - 1

    def _give_back(self, error: BaseException | None) -> None:
        with self._lock:
            if error is not None:
                self._stopped = True
                self._error = self._error or error
            last = self._active == 1 and (self._stopped or self._next == self._items)
            if not last:
                self._active -= 1
                return
        # Still counted as active: nobody is told of the end before the files are found unchanged.
        if not self._stopped:
            self._error = self._check()
            self._complete = self._error is None
        with self._lock:
            self._active -= 1
        self._finish()

    def _finish(self) -> None:
        with self._lock:
            if self._finished.is_set():
                return
            # The buffer may be freed even if somebody keeps the read.
            self._run = None
            self._finished.set()
        self._on_finished(self)
