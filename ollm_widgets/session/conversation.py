"""Asking the loaded model, one answer at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import Cancelled, ConfigError, OllmError
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.runtime.completion import figures
from ollm_widgets.session.edits import reason_of
from ollm_widgets.session.lane import Lane
from ollm_widgets.session.messages import has_images, markdown_of, messages_of, python_of
from ollm_widgets.session.parts import Changed
from ollm_widgets.session.sampling import Sampling
from ollm_widgets.session.transcript import Said, Transcript, Turn, TurnState
from ollm_widgets.session.tray import Tray

if TYPE_CHECKING:
    from ollm_widgets.runtime.completion import Delta
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.manager import RuntimeManager


@dataclass(frozen=True, slots=True)
class _Asked:
    """What an answer is made from, as it was when it was asked for."""

    runtime_id: str
    instructions: str
    said: list[Said]
    generation: GenerationConfig


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
    caller
        Who asks, as others see it in a runtime's queue; the same for the whole conversation.
    """

    def __init__(
        self,
        manager: RuntimeManager,
        lock: threading.RLock,
        generation: GenerationConfig | None,
        changed: Changed,
        caller: str,
    ) -> None:
        self.caller = caller
        self.transcript = Transcript()
        self.instructions = ""  # what the model is told before the first question
        self.sampling = Sampling(generation or GenerationConfig())
        self.tray = Tray(lock, changed)
        self.last: Delta | None = None  # figures of the latest answer
        self.answers_before = 0  # of others, while a question waits for its turn
        self._manager = manager
        self._lock = lock
        self._changed = changed
        self.job: str | None = None  # of the latest answer
        self._answers = Lane("chat")

    @property
    def generation(self) -> GenerationConfig:
        """How the next answer is generated."""
        return self.sampling.generation

    @generation.setter
    def generation(self, generation: GenerationConfig) -> None:
        generation.validate()
        with self._lock:
            self.sampling = Sampling(generation)
        self._changed("chat")

    @property
    def busy(self) -> bool:
        """Whether an answer runs or waits."""
        # A slice, since the list may be emptied meanwhile by who holds the lock.
        return any(turn.state in ("waiting", "streaming") for turn in self.transcript.turns[-1:])

    # ------------------------------------------------------------------ asking

    def send(self, runtime_id: str, text: str) -> str:
        """Ask, with the files of the tray; the answer streams in. Returns the job's id.

        Raises
        ------
        ConfigError
            For an empty question, while another answer runs, or while a file is being read.
        """
        with self._lock:
            self._check(text)
            files = self.tray.take()
            return self._ask(runtime_id, self.transcript.ask(text, files))

    def stop(self) -> None:
        """Stop the answer that runs, before or after its first token; its text stays."""
        self._answers.cancel()

    def retry(self, runtime_id: str, turn_id: str) -> str:
        """Answer the question before the answer `turn_id` again; the answer stays as a version."""
        with self._lock:
            self._check()
            return self._ask(runtime_id, self.transcript.answer_again(turn_id))

    def edit_turn(self, runtime_id: str, turn_id: str, text: str) -> str:
        """Ask another question in place of `turn_id`, which stays as a version."""
        with self._lock:
            self._check(text)
            return self._ask(runtime_id, self.transcript.ask_instead(turn_id, text))

    def show(self, turn_id: str) -> None:
        """Show a version of a turn, and what followed it.

        Raises
        ------
        ConfigError
            If there is no such turn, or while an answer runs.
        """
        with self._lock:
            self._check()
            self.transcript.show(turn_id)
            self.last = None
        self._changed("chat", "capabilities")

    def clear(self) -> None:
        """Start anew; an answer that runs is stopped and forgotten."""
        self._answers.cancel()
        with self._lock:
            self.transcript = self.transcript.emptied()
            self.last = None
        self._changed("chat", "capabilities")

    # ------------------------------------------------------------------ how it answers

    def instruct(self, text: str) -> None:
        """Tell the model something before the first question, from the next answer on."""
        with self._lock:
            self.instructions = text.strip()
        self._changed("chat")

    def set_sampling(self, field: str, text: str) -> None:
        """Change one field of how answers are generated, from the next one on; "" is its default.

        A value that cannot work stays visible beside its error.

        Raises
        ------
        ConfigError
            If there is no such field.
        """
        with self._lock:
            self.sampling.set(field, text)
        self._changed("chat")

    def apply_sampling_preset(self, preset_id: str) -> None:
        """Take a set of values for how answers are generated.

        Raises
        ------
        ConfigError
            If there is none of that id.
        """
        with self._lock:
            self.sampling.apply(preset_id)
        self._changed("chat")

    # ------------------------------------------------------------------ taking it elsewhere

    def messages(self) -> list[dict[str, Any]]:
        """Return what is shown as messages for `LoadedRuntime.stream`, instructions first.

        Exchanges without an answer are left out. Text files are part of their question; a
        message with images has a list of parts as ``content``.
        """
        with self._lock:
            said = self.transcript.said()
        return messages_of(self.instructions, said)

    def to_markdown(self) -> str:
        """Return what is shown as Markdown, for people."""
        with self._lock:
            return markdown_of(self.instructions, self.transcript.turns)

    def to_python(self) -> str:
        """Return Python that builds `messages`; images are opened by the names of their files."""
        with self._lock:
            return python_of(self.instructions, self.transcript.said())

    # ------------------------------------------------------------------ on the lane

    def _check(self, text: str = "?") -> None:
        if not text.strip():
            raise ConfigError("message", "is empty.", hint="Type something to send.")
        if self.busy:
            raise ConfigError("message", "an answer is still running.", hint="Stop it first.")

    def _ask(self, runtime_id: str, answer: Turn) -> str:
        asked = _Asked(runtime_id, self.instructions, self.transcript.said(), self.generation)
        self.job = job = self._answers.submit(lambda cancel: self._answer(asked, answer, cancel))
        self._changed("chat", "memory", "header", job=job)
        return job

    def _answer(self, asked: _Asked, answer: Turn, cancel: threading.Event) -> None:
        """Runs on the lane."""
        self.answers_before = 0
        try:
            with self._manager.borrow(asked.runtime_id, cancel=cancel) as lease:
                _check_images(lease.runtime, asked.said)
                messages = messages_of(asked.instructions, asked.said)
                pieces = lease.runtime.stream(
                    messages, asked.generation, cancel, caller=self.caller, on_wait=self._wait
                )
                for delta in pieces:
                    self._take(answer, delta)
        except Cancelled:
            self._end(answer, "stopped", "")
        except ConfigError as error:
            self._end(answer, "failed", _refusal(error, alone=len(asked.said) == 1))
        except OllmError as error:
            self._end(answer, "failed", str(error))
        except Exception as error:  # a person must see it, whatever a library raised
            self._end(answer, "failed", f"{type(error).__name__}: {error}")

    def _wait(self, answers_before: int) -> None:
        self.answers_before = answers_before
        self._changed("chat", "memory")

    def _take(self, answer: Turn, delta: Delta) -> None:
        with self._lock:
            answer.pieces.append(delta.text)
            answer.state = "streaming"
            answer.context_tokens = delta.prompt_tokens + delta.new_tokens
            if self.transcript.turns[-1:] == [answer]:  # it may have been forgotten by `clear`
                self.last = delta
            if delta.finish_reason is not None:
                answer.state = "stopped" if delta.finish_reason == "cancelled" else "done"
                answer.note = _note(delta)
        if delta.finish_reason is None:
            self._changed("chat")
        else:
            self._changed("chat", "capabilities")  # the card shows the measured speed

    def _end(self, answer: Turn, state: TurnState, note: str) -> None:
        with self._lock:
            answer.state, answer.note = state, note
            if state == "failed":
                answer.context_tokens = 0  # it is left out of what is sent next
        self._changed("chat")


def takes_images(runtime: Runtime) -> bool:
    """Whether a runtime takes images beside text."""
    return "image" in runtime.accepts


def _check_images(runtime: Runtime, said: list[Said]) -> None:
    if has_images(said) and not takes_images(runtime):
        raise ConfigError(
            "images",
            f"This conversation has images, and {runtime.name} takes text only.",
            hint="Load a model that takes images, or edit the question before them.",
        )


def _refusal(error: ConfigError, *, alone: bool) -> str:
    """What the runtime refuses, with what a person can do about it in a conversation."""
    if error.field == "images":
        return f"{reason_of(error)} {error.hint}"
    if error.field != "prompt":
        return str(error)
    hint = "Shorten it." if alone else "Start a new chat, or edit an earlier question."
    subject = "The question" if alone else "The conversation"
    return f"{subject} {reason_of(error)} {hint}"


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
