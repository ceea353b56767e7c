"""A runtime on a node of the cluster; it answers as one of this machine does."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ollm_widgets.cluster.books.prefixes import beginnings
from ollm_widgets.cluster.client.calls import Place
from ollm_widgets.cluster.far.crossing import carried
from ollm_widgets.cluster.far.model import FarModel
from ollm_widgets.cluster.far.outbox import RemoteJob
from ollm_widgets.cluster.messages import Described
from ollm_widgets.errors import Cancelled, ConfigError
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.runtime.completion import Completion, Delta
from ollm_widgets.runtime.job import Caller, Items
from ollm_widgets.runtime.letting_go import letting_go
from ollm_widgets.runtime.prompt import Prompt
from ollm_widgets.runtime.worker import Work

if TYPE_CHECKING:
    import torch

    from ollm_widgets.cluster.client.connection import Visit

Rows = list[list[int]]


class RemoteRuntime(FarModel):
    """A loaded model on a node of the cluster. Safe to call from several threads.

    Each request is routed anew: to whoever holds the model and has the least to do. Callers of one
    model take turns where it is. A node that goes away before it has begun to answer is replaced
    once by another; after that the request ends with `HostLostError`.
    """

    @letting_go
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
        """Generate token ids; see `LoadedRuntime.generate`.

        Parameters
        ----------
        input_ids, attention_mask
            ``[batch, prompt]``.
        kv_cache
            None: caches are kept on the node, and do not cross.

        Returns
        -------
        torch.Tensor
            ``[batch, prompt + new]``, on the device of `input_ids`.
        """
        if kv_cache is not None:
            self._refuse("kv_cache")
        settings = _checked(generation)
        if settings.stop:
            raise ConfigError(
                "stop",
                "stop strings need text, and generate gives token ids.",
                hint="Use stream or complete.",
            )
        self._open()
        ids: Rows = input_ids.tolist()
        mask: Rows | None = None if attention_mask is None else attention_mask.tolist()
        name = self._caller(caller)
        visit = self._errands.calls.visit

        def work(job: RemoteJob[Rows]) -> Work[Rows]:
            def run(stop: threading.Event, emit: Callable[[Rows], None]) -> None:
                def use(place: Place, described: Described | None) -> Rows:
                    self._follow(place, described)
                    job.waits(0)
                    return self._errands.generate(
                        place,
                        self._wanted.key,
                        ids,
                        mask=mask,
                        generation=settings.as_dict(),
                        caller=name,
                        cancel=stop,
                    )

                try:
                    emit(self._errands.run(self._wanted, visit, stop, use, caller=name))
                except Cancelled:
                    emit(ids)
                self._figures.look()

            return run

        (rows,) = self._outbox.submit(work, caller, lambda: ids).items(cancel)
        return input_ids.new_tensor(rows)

    @letting_go
    def stream(
        self,
        messages_or_text: Prompt,
        generation: GenerationConfig | None = None,
        cancel: threading.Event | None = None,
        *,
        caller: str | None = None,
        on_wait: Callable[[int], None] | None = None,
    ) -> Items[Delta]:
        """Answer piece by piece; the request is sent at once. See `LoadedRuntime.stream`.

        Images are read here, so that their paths are those of this machine.
        """
        settings = _checked(generation)
        self._open()
        prompt = carried(messages_or_text)
        visit = self._errands.calls.visit
        work = functools.partial(self._answer, prompt, settings, self._caller(caller), visit)
        return self._outbox.submit(work, caller, _unstarted).items(cancel, on_wait)

    @letting_go
    def complete(
        self,
        messages_or_text: Prompt,
        generation: GenerationConfig | None = None,
        cancel: threading.Event | None = None,
        *,
        caller: str | None = None,
        on_wait: Callable[[int], None] | None = None,
    ) -> Completion:
        """Answer at once; a cancelled answer holds the text so far. See `stream`."""
        with self.stream(
            messages_or_text, generation, cancel, caller=caller, on_wait=on_wait
        ) as stream:
            pieces = list(stream)
        return Completion.of(self.name, pieces)

    # ------------------------------------------------------------------ inside

    def _caller(self, caller: str | None) -> str:
        """Return whose turn it takes on a host, where those of other notebooks wait too."""
        return f"{Caller.of(caller).name} of {self._place.link.client}"

    def _answer(
        self,
        prompt: Any,
        settings: GenerationConfig,
        caller: str,
        visit: Visit,
        job: RemoteJob[Delta],
    ) -> Work[Delta]:
        def run(stop: threading.Event, emit: Callable[[Delta], None]) -> None:
            pieces: list[Delta] = []

            def use(place: Place, described: Described | None) -> None:
                self._follow(place, described)
                for piece in self._errands.stream(
                    place,
                    self._wanted.key,
                    prompt,
                    generation=settings.as_dict(),
                    caller=caller,
                    cancel=stop,
                    on_wait=job.waits,
                ):
                    pieces.append(piece)
                    self._note_end(pieces)
                    emit(piece)

            try:
                self._errands.run(
                    self._wanted, visit, stop, use, prefix=beginnings(prompt), caller=caller
                )
            except Cancelled:
                emit(_cancelled(pieces))
            self._figures.look()

        return run

    def _note_end(self, pieces: list[Delta]) -> None:
        """Remember a whole answer before its last piece is seen."""
        if pieces[-1].finish_reason is not None:
            self.last_completion = Completion.of(self.name, pieces)


def _checked(generation: GenerationConfig | None) -> GenerationConfig:
    generation = generation or GenerationConfig()
    generation.validate()
    return generation


def _unstarted() -> Delta:
    return Delta("", 0, 0, 0.0, 0.0, "cancelled")


def _cancelled(pieces: list[Delta]) -> Delta:
    """Return the last piece of an answer that its host has not ended in time."""
    if not pieces:
        return _unstarted()
    last = pieces[-1]
    return Delta(
        "",
        last.prompt_tokens,
        last.new_tokens,
        last.time_to_first_token_s,
        last.seconds,
        "cancelled",
        last.reused_tokens,
    )
