"""Runs in the kernel: sessions in the states that the gallery shows, with the real small model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ollm_widgets import GenerationConfig, RuntimeManager, Session
from ollm_widgets.runtime.residency import neighbours as other_kernels
from ollm_widgets.weights.placing import Placer

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France?"
LONGEST_WAIT_S = 120.0

# What no model of this size would say: an answer with everything that an answer may hold.
SAID = (
    (
        "How do I read a large Parquet file in parts, and what does that cost?",
        """\
Use `pyarrow` and go through **record batches**: memory stays at one batch.

```python
import pyarrow.parquet as pq

total = 0.0
for batch in pq.ParquetFile("events.parquet").iter_batches(65_536):
    frame = batch.to_pandas()
    total += frame["amount"].sum()  # one batch at a time
```

| rows a batch | memory | time |
|---:|---:|---:|
| 8,192 | 3 MB | 4.1 s |
| 65,536 | 24 MB | 2.9 s |
| 524,288 | 190 MB | 2.8 s |

1. Beyond 64k rows a larger batch gains little.
2. Read only the columns that you need.

> A row group is the unit on disk; no batch spans two of them.
""",
        "162 tokens, 31.2 tokens/s",
    ),
)
STORY = (
    "Tell me a story about a lighthouse.",
    "On the last rock before the open sea stood a lighthouse, and in it lived a keeper who had not "
    "slept through a night in eleven years. She did not mind. The lamp",
)


class Held:
    """Lets a few layers be read, and holds the others up until it is told to go on."""

    def __init__(self, layers: int) -> None:
        self.reached = threading.Event()
        self._left = layers
        self._go_on = threading.Event()
        self._bring = bring = Placer.bring

        def wait_and_bring(placer: Placer, home: Any, tier: Any, cancel: Any, count: Any) -> None:
            self._left -= 1
            if self._left < 0:
                self.reached.set()
                self._go_on.wait(LONGEST_WAIT_S)
            bring(placer, home, tier, cancel, count)

        Placer.bring = wait_and_bring  # type: ignore[method-assign]

    def go_on(self) -> None:
        """Let the rest be read."""
        self._go_on.set()
        Placer.bring = self._bring  # type: ignore[method-assign]


class Gallery:
    """Sessions by what they are in the middle of.

    Parameters
    ----------
    other
        A reference to the same model under another name.
    neighbours
        A folder where no other kernel says what it holds.
    """

    def __init__(self, other: str, neighbours: str) -> None:
        setattr(other_kernels, "FOLDER_NAME", neighbours)  # noqa: B010  (a constant)
        # A manager of its own knows of no model in memory.
        self.fresh = Session(RuntimeManager())
        self.talk = _chosen(MODEL)
        self.moved = _chosen(MODEL)
        self.large = _chosen(MODEL)
        self.refused = _chosen(other)
        self.coming = _chosen(other)
        self.sought = Session()
        self.story = Session()
        self.manager = self.talk.manager
        self._edit()
        self._load_and_talk()
        self._refuse()
        self._begin_to_load()

    def _edit(self) -> None:
        self.moved.desk.edit("offload_cpu_layers", "12")
        self.large.desk.edit("cpu_memory_budget", "1MiB")
        self.sought.browser.search("mistral")
        for session in (self.fresh, self.talk):
            session.browser.refresh()

    def _load_and_talk(self) -> None:
        _load(self.talk)
        self.talk.send(QUESTION)
        _until(self.talk, lambda: not self.talk.conversation.busy)
        for question, text, note in SAID:
            answer = self.talk.conversation.transcript.ask(question)
            answer.pieces, answer.state, answer.note = [text], "done", note
        answer = self.story.conversation.transcript.ask(STORY[0])
        answer.pieces, answer.state = [STORY[1]], "streaming"

    def _refuse(self) -> None:
        """Have a load find no room, as the one model that may stay is pinned."""
        runtime_id = self.talk.runtime_id
        assert runtime_id is not None
        self.manager.pin(runtime_id)
        self.manager.configure(max_loaded=1)
        self.refused.load()
        _until(self.refused, lambda: self.refused.loading.state == "failed")
        self.manager.configure(max_loaded=None)
        # What the shelf says last is what a person has done.
        self.manager.unpin(runtime_id)
        self.manager.pin(runtime_id)

    def _begin_to_load(self) -> None:
        self._held = Held(13)
        self.coming.load()
        assert self._held.reached.wait(LONGEST_WAIT_S)

    def close(self) -> None:
        """Let what was held up end, and give the memory back."""
        self._held.go_on()
        _until(self.coming, lambda: not self.coming.loading.active)
        self.manager.unload_all(force=True)


def _chosen(reference: str) -> Session:
    session = Session(generation=GenerationConfig(max_new_tokens=32))
    session.choose(reference)
    _until(session, lambda: session.plan is not None)
    return session


def _load(session: Session) -> None:
    session.load()
    _until(session, lambda: session.loading.state == "loaded")


def _until(session: Session, holds: Callable[[], bool]) -> None:
    """Wait for a change after which something holds."""
    changed = threading.Event()
    unwatch = session.watch(lambda _part, _job: changed.set())
    try:
        while not holds():
            if not changed.wait(LONGEST_WAIT_S):
                raise TimeoutError(f"Nothing has changed for {LONGEST_WAIT_S:.0f} s.")
            changed.clear()
    finally:
        unwatch()
