"""What a runtime is to those who keep, show and ask it, wherever its model is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ollm_widgets.backends.base import ProgressSink
    from ollm_widgets.kv.recommending import KVRecommendation
    from ollm_widgets.kv.stats import KVStats
    from ollm_widgets.models.capabilities import CapabilityProfile, Modality
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.render.card import Card
    from ollm_widgets.runtime.chat_traits import ChatTraits
    from ollm_widgets.runtime.completion import Completion, Delta
    from ollm_widgets.runtime.memory import MemoryUse
    from ollm_widgets.runtime.predicted_and_measured import TruthReport
    from ollm_widgets.runtime.prompt import Prompt
    from ollm_widgets.runtime.trace import Trace
    from ollm_widgets.runtime.turns import QueuedRequest


class Pieces(Protocol):
    """An answer, piece by piece; to close it, or to drop it, cancels the request."""

    def __iter__(self) -> Iterator[Delta]:
        """Return itself."""
        ...

    def __next__(self) -> Delta:
        """Wait for the next piece."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(self, *error: object) -> None:
        """Close it."""
        ...

    def close(self) -> None:
        """Leave: a request that waits never runs, one that runs is cancelled."""
        ...


@runtime_checkable
class Pinnable(Protocol):
    """A runtime that somebody else keeps too, and who has to know that it is pinned."""

    def set_pinned(self, pinned: bool) -> None:
        """Keep it there, or allow it to leave; does not wait until that is known there."""
        ...


class Runtime(Protocol):
    """A model that answers: `LoadedRuntime` in this process, `RemoteRuntime` on another machine.

    Its properties, `memory` and `kv_stats` are asked several times a second by what draws them, so
    that they never wait for another machine: they give what was known last.
    """

    last_completion: Completion | None

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """What a person calls it."""
        ...

    @property
    def config(self) -> RuntimeConfig:
        """What was asked for, with every automatic choice filled in."""
        ...

    @property
    def plan(self) -> RuntimePlan:
        """How it runs now; its `node` is where, empty in this process."""
        ...

    @property
    def resolved_model(self) -> ResolvedModel:
        """The model."""
        ...

    @property
    def model_path(self) -> Path | None:
        """Its files on this machine; None where it is read on another one."""
        ...

    @property
    def capabilities(self) -> CapabilityProfile:
        """What it can do, in agreement with the plan as applied."""
        ...

    @property
    def accepts(self) -> tuple[Modality, ...]:
        """What a message may hold."""
        ...

    @property
    def chat_traits(self) -> ChatTraits:
        """What its files say of talking to it.

        Raises
        ------
        RuntimeClosedError
            If it has left memory.
        """
        ...

    @property
    def untraceable(self) -> str:
        """Why `trace` cannot follow its layers, in a sentence; empty where it can."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the model has left memory."""
        ...

    # ------------------------------------------------------------------ running it

    def stream(
        self,
        messages_or_text: Prompt,
        generation: GenerationConfig | None = None,
        cancel: threading.Event | None = None,
        *,
        caller: str | None = None,
        on_wait: Callable[[int], None] | None = None,
    ) -> Pieces:
        """Answer piece by piece; see `LoadedRuntime.stream`."""
        ...

    def complete(
        self,
        messages_or_text: Prompt,
        generation: GenerationConfig | None = None,
        cancel: threading.Event | None = None,
        *,
        caller: str | None = None,
        on_wait: Callable[[int], None] | None = None,
    ) -> Completion:
        """Answer at once; see `LoadedRuntime.complete`."""
        ...

    def generate(
        self,
        input_ids: torch.Tensor,
        generation: GenerationConfig | None = None,
        kv_cache: Any = None,
        cancel: threading.Event | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        caller: str | None = None,
    ) -> torch.Tensor:
        """Generate token ids; see `LoadedRuntime.generate`."""
        ...

    # ------------------------------------------------------------------ who asks it

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        ...

    @property
    def queue(self) -> tuple[QueuedRequest, ...]:
        """The requests that run, and those that wait, in the order of their turns."""
        ...

    def watch_activity(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback` with True when the first request comes, with False when the last ends.

        Returns
        -------
        callable
            Ends it; calling it twice is harmless.
        """
        ...

    def cancel_running(self) -> bool:
        """End the request that runs, as its caller could; False where none does."""
        ...

    # ------------------------------------------------------------------ what it holds

    def memory(self) -> MemoryUse:
        """Say what its weights and caches hold, where it runs."""
        ...

    def kv_stats(self) -> KVStats:
        """Say what its own KV cache holds, and what it has moved."""
        ...

    def catch_up(self) -> None:
        """See to it that what it says it holds is of now; waits a moment for another machine."""
        ...

    def kv_recommendation(self) -> KVRecommendation | None:
        """Say how the KV cache had better be kept."""
        ...

    @property
    def truth(self) -> TruthReport:
        """What the plan predicted, beside what was measured."""
        ...

    @property
    def can_demote(self) -> bool:
        """Whether it could go to host memory."""
        ...

    @property
    def demoted(self) -> bool:
        """Whether it is in host memory, from where its next use brings it back."""
        ...

    def demote(self, cancel: threading.Event | None = None) -> None:
        """Go to host memory.

        Raises
        ------
        ConfigError
            If nothing of it can.
        """
        ...

    def restore(
        self, progress: ProgressSink | None = None, cancel: threading.Event | None = None
    ) -> None:
        """Come back from host memory."""
        ...

    def release_host_copy(self) -> None:
        """Let go of the copy in host memory that only makes the next demotion quick."""
        ...

    def trace(self) -> AbstractContextManager[Trace]:
        """Record where the time of each pass goes.

        Raises
        ------
        ConfigError
            Where its layers cannot be followed; see `untraceable`.
        """
        ...

    def card(self) -> Card:
        """Draw it: what is loaded, how, and what it holds."""
        ...

    # ------------------------------------------------------------------ its end

    def close(self, why: str = "") -> None:
        """Cancel what runs and give it back; calling it again does nothing.

        Parameters
        ----------
        why
            Told to who asks it from then on: ``" for gamma"`` goes on "alpha was closed".
        """
        ...

    def close_if_idle(self, why: str = "") -> bool:
        """Close, unless a request runs or waits; whether it is closed."""
        ...
