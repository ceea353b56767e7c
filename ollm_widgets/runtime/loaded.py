"""A model in memory, ready to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.planning.parts import listed
from ollm_widgets.runtime.answering import Request, answer, generate_ids, measured_answer
from ollm_widgets.runtime.caching import CachingModel
from ollm_widgets.runtime.completion import Completion, Delta
from ollm_widgets.runtime.generation import Clock
from ollm_widgets.runtime.job import Items
from ollm_widgets.runtime.letting_go import letting_go
from ollm_widgets.runtime.loaded_card import card_of
from ollm_widgets.runtime.prompt import (
    NoImages,
    Prompt,
    attention_for,
    encode_request,
    room_for_new_tokens,
)
from ollm_widgets.runtime.tuning import Answered

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from ollm_widgets.models.capabilities import Modality
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.render.card import Card


class LoadedRuntime(CachingModel):
    """A loaded model with its plan. Safe to call from several threads: callers take turns.

    Use it as a context manager, or call `close`; one that nobody holds any more closes itself.
    """

    last_completion: Completion | None = None

    @property
    def accepts(self) -> tuple[Modality, ...]:
        """What a message may hold: ``("text",)``, or ``("text", "image")``.

        Images are taken by a model that sees, loaded with ``multimodal=True``.
        """
        seen = self.config.multimodal and "image" in self.capabilities.modalities
        return ("text", "image") if seen else ("text",)

    # ------------------------------------------------------------------ running it

    @letting_go
    def generate(
        self,
        input_ids: torch.Tensor,
        generation: GenerationConfig | None = None,
        kv_cache: Cache | None = None,
        cancel: threading.Event | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        caller: str | None = None,
    ) -> torch.Tensor:
        """Generate token ids, as transformers would.

        Parameters
        ----------
        input_ids
            ``[batch, prompt]``, left-padded where lengths differ.
        generation
            Defaults to greedy, 500 tokens; stop strings apply to `stream` only.
        kv_cache
            A cache to continue from and fill, e.g. of `get_or_create_kv_cache`.
        cancel
            Set it from another thread to end early with the tokens so far; before its turn
            those are the prompt's.
        attention_mask
            ``[batch, prompt]``, 0 where padded; all ones by default.
        caller
            Whose turn it takes; by default that of the calling thread.

        Returns
        -------
        torch.Tensor
            ``[batch, prompt + new]``.
        """
        generation = _checked(generation)
        if generation.stop:
            raise ConfigError(
                "stop",
                "stop strings need text, and generate gives token ids.",
                hint="Use stream or complete.",
            )
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise ConfigError(
                "input_ids", f"must be [batch, tokens], got shape {list(input_ids.shape)}."
            )
        new_tokens = room_for_new_tokens(
            input_ids.shape[1], generation.max_new_tokens, self.capabilities.context_length
        )
        mask = attention_for(input_ids) if attention_mask is None else attention_mask

        def work(stop: threading.Event, emit: Callable[[torch.Tensor], None]) -> None:
            with self._cache_for(kv_cache) as (cache, reuse):
                request = Request(input_ids, mask, generation, new_tokens, stop, cache, reuse)
                plan, clock = self.plan, Clock()
                output = generate_ids(self._open(), plan, request, clock.watch)
                self._compare(request, plan, clock)
                emit(output)
                self._learn(request, plan, clock)

        (output,) = self._worker.submit(work, caller, lambda: input_ids).items(cancel)
        return output

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
        """Answer piece by piece; the request is queued at once.

        Callers take turns, and the requests of each run in the order in which they came. To close
        the iterator, or to drop it, cancels the request.

        Parameters
        ----------
        messages_or_text
            One text, or messages with ``role`` and ``content``. Where `accepts` names images, a
            content may be parts: ``{"type": "text", "text": ...}`` and ``{"type": "image",
            "image": ...}``, with a Pillow image, the bytes of a file or a path; or ``"path"``.
        cancel
            Set it from another thread to stop; the last piece then says ``cancelled``.
        caller
            Whose turn it takes; by default that of the calling thread.
        on_wait
            Called while the request waits, on the thread that reads the pieces: with the number
            of requests before it, each time that it is another one, and with 0 in the end.

        Yields
        ------
        Delta
            Pieces of text; the last one carries finish reason, counts and timings.
        """
        generation = _checked(generation)
        encoded = encode_request(
            self.tokenizer,
            self.processor,
            messages_or_text,
            self._no_images(),
            self.model.config,
        )
        input_ids, mask = encoded.input_ids, encoded.attention_mask
        new_tokens = room_for_new_tokens(
            input_ids.shape[1], generation.max_new_tokens, self.capabilities.context_length
        )

        def work(stop: threading.Event, emit: Callable[[Delta], None]) -> None:
            pieces: list[Delta] = []

            def emit_piece(piece: Delta) -> None:
                pieces.append(piece)
                emit(piece)

            with self._cache_for(None) as (_cache, reuse):
                request = Request(
                    input_ids,
                    mask,
                    generation,
                    new_tokens,
                    stop,
                    reuse=reuse,
                    images=encoded.images,
                )
                plan, clock = self.plan, Clock()
                last = answer(self._open(), plan, request, emit_piece, clock)
                # A card that is drawn when the last piece comes has the figures in it.
                self._compare(request, plan, clock)
                self.last_completion = Completion.of(self.name, (*pieces, last))
                emit(last)
                self._learn(request, plan, clock)

        def unstarted() -> Delta:
            return Delta("", input_ids.shape[1], 0, 0.0, 0.0, "cancelled")

        return self._worker.submit(work, caller, unstarted).items(cancel, on_wait)

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

    def __repr__(self) -> str:
        state = (
            "closed" if self.closed else f"{self.plan.backend_id} on {listed(self.plan.devices)}"
        )
        return f"<LoadedRuntime {self.name}: {state}>"

    def card(self) -> Card:
        """What is loaded, how, what it holds, and how its plan's figures came true."""
        return card_of(self)

    def _no_images(self) -> NoImages:
        if "image" in self.capabilities.modalities:
            return NoImages(
                "this model was loaded for text only", "Load it again with multimodal=True."
            )
        return NoImages(
            "this model takes text only",
            "Choose a model that takes images, and load it with multimodal=True.",
        )

    # ------------------------------------------------------------------ on the worker's thread

    def _compare(self, request: Request, plan: RuntimePlan, clock: Clock) -> None:
        """Put the pace of a request beside what was predicted of it."""
        loaded = self._loaded
        if loaded is None:
            return  # closed while the last token was on its way
        if loaded.engine is not None and loaded.engine.placement != plan.placement:
            return  # layers had to move while it ran
        measured = measured_answer(loaded, plan, request, clock)
        if measured is not None:
            self._truth.answered(plan, measured)

    def _learn(self, request: Request, plan: RuntimePlan, clock: Clock) -> None:
        """Remember the pace, and keep the KV cache in another way from here on if need be."""
        self._truth.remember(plan)
        if request.reuse is None:
            return
        kept = request.reuse.last.kept_tokens
        answered = Answered(request.input_ids, clock.tokens, kept, clock.seconds_per_token)
        kv = self._caches.tune(answered, request.reuse)
        if kv is not None:
            self.plan = self.plan.refine(kv=kv)


def _checked(generation: GenerationConfig | None) -> GenerationConfig:
    generation = generation or GenerationConfig()
    generation.validate()
    return generation
