"""What the pictures of a running model are drawn from, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError, RuntimeClosedError
from ollm_widgets.session.lane import Lane
from ollm_widgets.session.pace import Pace
from ollm_widgets.session.tracing import Tracing

if TYPE_CHECKING:
    from ollm_widgets.kv.stats import KVStats
    from ollm_widgets.runtime.completion import Delta
    from ollm_widgets.session.parts import Changed, Part
    from ollm_widgets.session.session import Session

MOST_ANSWERS = 200


@dataclass(frozen=True, slots=True)
class AnswerMemory:
    """What the KV cache held after an answer.

    Parameters
    ----------
    number
        Which answer of the conversation, from 1.
    model
        Who gave it.
    kv
        Its cache then.
    """

    number: int
    model: str
    kv: KVStats


class Activity:
    """Follows a session's answers: their pace, their memory, and a trace where one is wanted.

    Nothing is measured for it but the trace; the rest are figures that answers carry anyway.

    Parameters
    ----------
    session
        Whose answers they are.
    changed
        Called after each change.
    """

    def __init__(self, session: Session, changed: Changed) -> None:
        self.pace: Pace | None = None  # of the latest answer
        self.memory: deque[AnswerMemory] = deque(maxlen=MOST_ANSWERS)
        self.shown_token: int | None = None  # whose layers are shown; None is the typical one
        self._session = session
        self._transcript = session.conversation.transcript
        self._tell = changed
        self._lock = threading.Lock()
        self._lane = Lane("activity")
        self._answers = 0
        self._job: str | None = None
        self._before: Delta | None = None  # the last piece of the answer before
        self.tracing = Tracing(self._lane, self._changed)
        session.watch(self._note)

    def trace(self, on: bool) -> str | None:
        """Trace the next answer, or do not after all; returns the id of the job, if any.

        Raises
        ------
        RuntimeClosedError
            If no model is loaded.
        ConfigError
            If its backend does not see the layers of its model.
        """
        if not on:
            self.tracing.switch_off()
            return None
        runtime = self._session.runtime
        if runtime is None:
            raise RuntimeClosedError("No model is loaded yet.", hint="Press Load first.")
        if reason := runtime.untraceable:
            raise ConfigError("trace", reason)
        conversation = self._session.conversation
        job = self.tracing.switch_on(runtime, conversation.job if conversation.busy else None)
        self._changed()
        return job

    def inspect(self, token: str) -> None:
        """Show the layers of another token of the trace, by its number; "" is the typical one.

        Raises
        ------
        ConfigError
            If no token of that number was traced.
        """
        traced = self.tracing.latest
        numbers = {str(one.number): one.number for one in traced.tokens} if traced else {}
        if token and token not in numbers:
            raise ConfigError("token", f"no token {token!r} was traced.")
        self.shown_token = numbers[token] if token else None
        self._changed()

    def close(self) -> None:
        """Let go of a trace that is open."""
        self.tracing.switch_off()

    # ------------------------------------------------------------------ following

    def _note(self, part: Part, _job: str | None) -> None:
        """Called on whatever thread has changed something."""
        if part == "chat":
            self._follow()
        elif part == "memory":
            self.tracing.look_after()

    def _follow(self) -> None:
        conversation = self._session.conversation
        # In this order: what is no longer busy has its last piece.
        job, busy, last = conversation.job, conversation.busy, conversation.last
        ended: str | None = None
        with self._lock:
            if conversation.transcript is not self._transcript:
                self._transcript = conversation.transcript
                self._forget()
            elif job is not None and job != self._job:
                self._job, self._before, self.pace = job, last, Pace(job)
            pace = self.pace
            if pace is None or not pace.running:
                return
            if pace.follow(None if last is self._before else last, busy=busy):
                ended = pace.job
        if ended is not None:
            self._lane.submit(lambda _cancel: self._finish(ended))

    def _forget(self) -> None:
        """A new conversation begins; what is traced stays."""
        self._job, self.pace, self._answers = self._session.conversation.job, None, 0
        self.memory.clear()

    def _finish(self, job: str) -> None:
        """Runs on the lane, after an answer."""
        runtime = self._session.runtime
        if runtime is not None and not runtime.closed:
            runtime.catch_up()
            kv = runtime.kv_stats()
            with self._lock:
                if self.pace is not None:  # it may have been forgotten meanwhile
                    self._answers += 1
                    self.memory.append(AnswerMemory(self._answers, runtime.name, kv))
        traced, pace = self.tracing.latest, self.pace
        last = pace.last if pace is not None and pace.job == job else None
        self.tracing.answered(job, runtime, last)
        if self.tracing.latest is not traced:
            self.shown_token = None
        self._changed()

    def _changed(self) -> None:
        self._tell("activity")
