"""Tracing the next answer, for a person who has asked for it."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.errors import OllmError, RuntimeClosedError
from ollm_widgets.runtime.token_time import TokenTime, first_number, last_answer, token_times

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollm_widgets.runtime.completion import Delta
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.trace import Trace
    from ollm_widgets.session.lane import Lane


@dataclass(frozen=True, slots=True, eq=False)
class TracedAnswer:
    """The tokens of an answer that were recorded.

    Parameters
    ----------
    model
        Whose answer it is.
    tokens
        In their order.
    unrecorded
        Steps in between that were not recorded.
    """

    model: str
    tokens: tuple[TokenTime, ...]
    unrecorded: int


class Tracing:
    """Switched on by a person; off again once an answer was traced.

    A trace begins and ends between two requests, so both wait for their turn on a lane.

    Parameters
    ----------
    lane
        Where that is waited for.
    changed
        Called after each change.
    """

    def __init__(self, lane: Lane, changed: Callable[[], None]) -> None:
        self.wanted = False
        self.ready = False  # the next answer is traced
        self.problem = ""  # why there is no trace
        self.latest: TracedAnswer | None = None
        self._lane = lane
        self._changed = changed
        self._lock = threading.Lock()
        self._passed_over: str | None = None  # the job that ran already when it was switched on
        self._runtime: Runtime | None = None
        # Of the trace that is open; the lane's alone.
        self._open: tuple[ExitStack, Trace] | None = None

    def switch_on(self, runtime: Runtime, running: str | None) -> str:
        """Trace the next answer of `runtime`; returns the job's id.

        Parameters
        ----------
        running
            The job of the answer that runs now, which is not traced.
        """
        with self._lock:
            self.wanted, self.problem = True, ""
            self._passed_over = running
        return self._lane.submit(lambda _cancel: self._start(runtime))

    def switch_off(self) -> None:
        """Trace nothing; harmless while nothing is traced."""
        with self._lock:
            if not self.wanted:
                return
            self.wanted = self.ready = False
        self._lane.submit(lambda _cancel: self._drop())
        self._changed()

    def look_after(self) -> None:
        """Let go of a runtime that has left memory; never blocks."""
        runtime = self._runtime
        if runtime is not None and runtime.closed:
            self._lane.submit(lambda _cancel: self._let_go(runtime))

    # ------------------------------------------------------------------ on the lane

    def answered(self, job: str, runtime: Runtime | None, last: Delta | None) -> None:
        """An answer has ended: if it was the one to trace, read the trace.

        Parameters
        ----------
        job
            The one that has written it.
        runtime
            Who has answered; None where it has left memory.
        last
            The last piece; None where there was none.
        """
        with self._lock:
            ours = self.ready and job != self._passed_over
            if ours:
                self.wanted = self.ready = False
        if not ours:
            return
        traced, trace = self._runtime, self._close()
        passes = last_answer(trace.passes) if trace is not None else ()
        if traced is None or runtime is not traced:
            self.problem = "Nothing was traced: another model has answered."
        elif not passes or last is None:
            self.problem = "Nothing was traced: the answer ended before its first token."
        else:
            first = first_number(passes, last.prompt_tokens, last.new_tokens)
            unrecorded = sum(each.unrecorded for each in passes[:-1])
            self.latest = TracedAnswer(traced.name, token_times(passes, first), unrecorded)

    def _start(self, runtime: Runtime) -> None:
        if self._runtime is not runtime:
            self._close()
        if self._open is None and self.wanted:
            stack = ExitStack()
            try:
                trace = stack.enter_context(runtime.trace())
            except OllmError as error:
                with self._lock:
                    self.wanted, self.problem = False, str(error)
            else:
                self._open, self._runtime = (stack, trace), runtime
        with self._lock:
            self.ready = self.wanted and self._open is not None
        if not self.wanted:
            self._close()
        self._changed()

    def _let_go(self, runtime: Runtime) -> None:
        if self._runtime is not runtime:
            return
        with self._lock:
            if self.wanted:
                self.problem = f"{runtime.name} has left memory before it was traced."
            self.wanted = self.ready = False
        self._close()
        self._changed()

    def _drop(self) -> None:
        self._close()

    def _close(self) -> Trace | None:
        """End the trace that is open, and return what it has."""
        held, self._open, self._runtime = self._open, None, None
        if held is None:
            return None
        stack, trace = held
        try:
            stack.close()
        except RuntimeClosedError:
            return None  # the model has left memory, and its trace with it
        return trace
