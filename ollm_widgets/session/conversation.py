"""Asking the loaded model, one answer at a time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError, OllmError
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.runtime.completion import figures
from ollm_widgets.session.lane import Lane
from ollm_widgets.session.parts import Changed
from ollm_widgets.session.transcript import Transcript, Turn

if TYPE_CHECKING:
    from ollm_widgets.runtime.completion import Delta
    from ollm_widgets.runtime.manager import RuntimeManager


class Conversation:
    """A transcript, and the lane on which its answers stream.

    Parameters
    ----------
    manager
        Where the runtime that answers lives.
    lock
        The session's lock; held while the transcript changes.
    generation
        How answers are generated.
    changed
        Called after each change.
    """

    def __init__(
        self,
        manager: RuntimeManager,
        lock: threading.RLock,
        generation: GenerationConfig | None,
        changed: Changed,
    ) -> None:
        self.transcript = Transcript()
        self.generation = generation or GenerationConfig()
        self.last: Delta | None = None  # figures of the latest answer
        self._manager = manager
        self._lock = lock
        self._changed = changed
        self._answers = Lane("chat")

    @property
    def busy(self) -> bool:
        """Whether an answer runs or waits."""
        # A slice, since the list may be emptied meanwhile by who holds the lock.
        return any(turn.state in ("waiting", "streaming") for turn in self.transcript.turns[-1:])

    def send(self, runtime_id: str, text: str) -> str:
        """Ask; the answer streams into the transcript. Returns the job's id.

        Raises
        ------
        ConfigError
            For an empty question, or while another answer runs.
        """
        with self._lock:
            self._check(text)
            return self._ask(runtime_id, text)

    def stop(self) -> None:
        """Stop the answer that runs, before or after its first token; its text stays."""
        self._answers.cancel()

    def retry(self, runtime_id: str, turn_id: str) -> str:
        """Ask the question before the answer `turn_id` again; what followed is dropped."""
        with self._lock:
            self._check()
            return self._ask(runtime_id, self.transcript.question_before(turn_id))

    def edit_turn(self, runtime_id: str, turn_id: str, text: str) -> str:
        """Ask another question in place of `turn_id`; what followed is dropped."""
        with self._lock:
            self._check(text)
            self.transcript.drop_from(turn_id)
            return self._ask(runtime_id, text)

    def clear(self) -> None:
        """Start anew; an answer that runs is stopped and forgotten."""
        self._answers.cancel()
        with self._lock:
            self.transcript = self.transcript.emptied()
            self.last = None
        self._changed("chat", "capabilities")

    def _check(self, text: str = "?") -> None:
        if not text.strip():
            raise ConfigError("message", "is empty.", hint="Type something to send.")
        if self.busy:
            raise ConfigError("message", "an answer is still running.", hint="Stop it first.")

    def _ask(self, runtime_id: str, text: str) -> str:
        transcript = self.transcript
        answer = transcript.ask(text)
        messages = transcript.messages()
        job = self._answers.submit(
            lambda cancel: self._answer(runtime_id, messages, answer, cancel)
        )
        self._changed("chat", "memory", "header", job=job)
        return job

    def _answer(
        self,
        runtime_id: str,
        messages: list[dict[str, str]],
        answer: Turn,
        cancel: threading.Event,
    ) -> None:
        """Runs on the lane."""
        try:
            with self._manager.borrow(runtime_id) as lease:
                for delta in lease.runtime.stream(messages, self.generation, cancel):
                    self._take(answer, delta)
        except OllmError as error:
            self._fail(answer, str(error))
        except Exception as error:  # a person must see it, whatever a library raised
            self._fail(answer, f"{type(error).__name__}: {error}")

    def _take(self, answer: Turn, delta: Delta) -> None:
        with self._lock:
            answer.pieces.append(delta.text)
            answer.state = "streaming"
            if self.transcript.turns[-1:] == [answer]:  # it may have been forgotten by `clear`
                self.last = delta
            if delta.finish_reason is not None:
                answer.state = "stopped" if delta.finish_reason == "cancelled" else "done"
                answer.note = _note(delta)
        if delta.finish_reason is None:
            self._changed("chat")
        else:
            self._changed("chat", "capabilities")  # the card shows the measured speed

    def _fail(self, answer: Turn, note: str) -> None:
        with self._lock:
            answer.state, answer.note = "failed", note
        self._changed("chat")


def _note(delta: Delta) -> str:
    """What a person wants to know of a finished answer."""
    ended = {
        "cancelled": "stopped, ",
        "length": "at its length limit, ",
        "stop": "",
        "stop-string": "",
        None: "",
    }[delta.finish_reason]
    return ended + figures(delta)
