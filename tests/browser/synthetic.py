"""Runs in the kernel: a loaded runtime that answers at a pace of its own, and what that costs.

The model alone is made up. Its pieces come from the runtime's own thread and queue, and go the
way of every answer: session, transcript, senders, comms.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ollm_widgets import GenerationConfig, LoadedRuntime, Session
from ollm_widgets.runtime.completion import Delta
from ollm_widgets.runtime.job import Items

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def word(number: int) -> str:
    """The one word of a token, which no other token has: ``T`` and its number."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return f"T{digits or '0'}"


def pieces(tokens: int) -> Iterator[str]:
    """Yield the text of an answer token by token: Markdown such as models write.

    Paragraphs, lists, a table and code follow each other; only marks stand around the words. A
    token has 5 to 6 bytes.
    """
    for number in range(tokens):
        section, place = divmod(number, 200)
        if place == 0:
            before = "\n```\n\n## " if section else "## "
        elif place in (1, 61):
            before = "\n\n"
        elif 80 <= place < 120 and place % 5 == 0:
            before = "\n- " if place > 80 else "\n\n- "
        elif place == 120:
            before = "\n\n| a | b |\n|---|---|\n| "
        elif 120 < place < 128:
            before = " |\n| " if place % 2 == 0 else " | "
        elif place == 128:
            before = " |\n\n```python\n"
        elif place > 128 and place % 8 == 0:
            before = "\n    "
        else:
            before = " "
        marked = 2 < place < 80 and place % 10 == 0
        yield f"{before}**{word(number)}**" if marked else f"{before}{word(number)}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How an answer comes.

    Parameters
    ----------
    tokens
        How many.
    tokens_per_s
        0 means as fast as `step` allows.
    step
        What the runtime's thread does for each token, as a model would compute.
    """

    tokens: int
    tokens_per_s: float = 1000.0
    step: Callable[[], object] | None = None


def answer_at(runtime: LoadedRuntime, pace: Pace) -> list[float]:
    """Have a runtime answer whatever it is asked at a pace, from now on.

    Returns
    -------
    list[float]
        When each token of the latest answer came, by `time.perf_counter`.
    """
    came: list[float] = []

    def work(stop: threading.Event, emit: Callable[[Delta], None]) -> None:
        came.clear()
        began = time.perf_counter()
        first_s = 0.0
        for number, text in enumerate(pieces(pace.tokens), 1):
            if pace.step is not None:
                pace.step()
            if pace.tokens_per_s:
                early_s = began + number / pace.tokens_per_s - time.perf_counter()
                if early_s > 0:
                    time.sleep(early_s)
            if stop.is_set():
                break
            came.append(time.perf_counter())
            seconds = came[-1] - began
            first_s = first_s or seconds
            emit(Delta(text, 8, number, first_s, seconds))
        reason = "cancelled" if stop.is_set() else "length"
        emit(Delta("", 8, len(came), first_s, time.perf_counter() - began, reason))

    def stream(
        _messages: object,
        _generation: GenerationConfig | None = None,
        cancel: threading.Event | None = None,
        *,
        caller: str | None = None,
        on_wait: Callable[[int], None] | None = None,
    ) -> Items[Delta]:
        def unstarted() -> Delta:
            return Delta("", 8, 0, 0.0, 0.0, "cancelled")

        return runtime._worker.submit(work, caller, unstarted).items(cancel, on_wait)

    setattr(runtime, "stream", stream)  # noqa: B010  (a method, which this one stands for)
    return came


def computing(seconds: float) -> Callable[[], object]:
    """A step that keeps a core busy for about that long, outside of Python, as a model does."""
    block = bytes(1 << 16)
    began = time.thread_time()
    for _try in range(100):
        hashlib.sha256(block)
    block = bytes(int(len(block) * seconds * 100 / (time.thread_time() - began)))
    return lambda: hashlib.sha256(block)


def save_model(folder: Path) -> Path:
    """Write a model of two small layers; nothing is ever asked of it."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def load(session: Session, reference: str, patience_s: float = 60.0) -> LoadedRuntime:
    """Choose a model, load it, and return it."""
    session.choose(reference)
    wait(lambda: session.can_load, patience_s)
    session.load()
    wait(lambda: session.runtime is not None and not session.running, patience_s)
    assert session.runtime is not None
    return session.runtime


def wait(holds: Callable[[], object], patience_s: float) -> None:
    """Look until `holds`."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("It never came true.")
        time.sleep(0.02)


def said(session: Session) -> dict[str, object]:
    """How many tokens the last turn holds, and a digest of its words in order."""
    turn = session.conversation.transcript.turns[-1]
    words = [part for part in turn.text.replace("*", " ").split() if part.startswith("T")]
    digest = hashlib.sha256(" ".join(words).encode()).hexdigest()
    return {"state": turn.state, "words": len(words), "digest": digest, "bytes": len(turn.text)}


def processor_s() -> dict[str, float]:
    """Seconds of processor time that each living thread of this process has had, by its name."""
    seconds: dict[str, float] = {}
    for thread in threading.enumerate():
        if thread.ident is not None:
            clock = time.pthread_getcpuclockid(thread.ident)
            seconds[thread.name] = seconds.get(thread.name, 0.0) + time.clock_gettime(clock)
    return seconds
