"""A model in memory, ready to answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.backends.memory import as_out_of_memory
from ollm_widgets.errors import ConfigError, RuntimeClosedError
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.planning.kv_choice import kv_folder
from ollm_widgets.planning.kv_presets import DEFAULT_CODEC
from ollm_widgets.planning.parts import listed
from ollm_widgets.runtime.answering import Request, answer, generate_ids, measured_answer
from ollm_widgets.runtime.comparing import compare_kv
from ollm_widgets.runtime.completion import Completion, Delta
from ollm_widgets.runtime.generation import Clock
from ollm_widgets.runtime.held import HeldModel
from ollm_widgets.runtime.loaded_card import card_of
from ollm_widgets.runtime.prompt import Prompt, attention_for, encode_prompt, room_for_new_tokens
from ollm_widgets.runtime.reuse import PrefixReuse
from ollm_widgets.runtime.tuning import Answered
from ollm_widgets.runtime.worker import Job

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from ollm_widgets.kv.budget import KVBudget
    from ollm_widgets.kv.recommending import KVRecommendation
    from ollm_widgets.kv.stats import KVStats
    from ollm_widgets.planning.config import (
        KVCacheLifecycle,
        KVCodecId,
        KVStrategyId,
    )
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.render.card import Card
    from ollm_widgets.runtime.comparison import ComparisonProgress, KVComparison


class LoadedRuntime(HeldModel):
    """A loaded model with its plan. Safe to call from several threads: requests queue.

    Use it as a context manager, or call `close`.
    """

    last_completion: Completion | None = None

    # ------------------------------------------------------------------ running it

    def generate(
        self,
        input_ids: torch.Tensor,
        generation: GenerationConfig | None = None,
        kv_cache: Cache | None = None,
        cancel: threading.Event | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
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
            Set it from another thread to end early with the tokens so far.
        attention_mask
            ``[batch, prompt]``, 0 where padded; all ones by default.

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

        (output,) = self._worker.submit(work).items(cancel)
        return output

    def stream(
        self,
        messages_or_text: Prompt,
        generation: GenerationConfig | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Delta]:
        """Answer piece by piece.

        Parameters
        ----------
        messages_or_text
            One text, or messages with ``role`` and ``content``.
        cancel
            Set it from another thread to stop; the last piece then says ``cancelled``.

        Yields
        ------
        Delta
            Pieces of text; the last one carries finish reason, counts and timings.
        """
        generation = _checked(generation)
        encoded = encode_prompt(self.tokenizer, messages_or_text)
        input_ids, mask = encoded["input_ids"], encoded["attention_mask"]
        new_tokens = room_for_new_tokens(
            input_ids.shape[1], generation.max_new_tokens, self.capabilities.context_length
        )

        def work(stop: threading.Event, emit: Callable[[Delta], None]) -> None:
            with self._cache_for(None) as (_cache, reuse):
                request = Request(input_ids, mask, generation, new_tokens, stop, reuse=reuse)
                plan, clock = self.plan, Clock()
                last = answer(self._open(), plan, request, emit, clock)
                # A card that is drawn when the last piece comes has the figures in it.
                self._compare(request, plan, clock)
                emit(last)
                self._learn(request, plan, clock)

        return self._remembering(self._worker.submit(work), cancel)

    def complete(
        self,
        messages_or_text: Prompt,
        generation: GenerationConfig | None = None,
        cancel: threading.Event | None = None,
    ) -> Completion:
        """Answer at once; a cancelled answer holds the text so far."""
        pieces = list(self.stream(messages_or_text, generation, cancel))
        return Completion.of("".join(piece.text for piece in pieces), self.name, pieces[-1])

    # ------------------------------------------------------------------ its caches

    def get_or_create_kv_cache(
        self,
        cache_dir: Path | str | None = None,
        strategy: KVStrategyId | None = None,
        lifecycle: KVCacheLifecycle | None = None,
        window_tokens: int | None = None,
    ) -> Cache:
        """Return the cache for these choices, the same one for the same choices.

        Parameters
        ----------
        cache_dir
            Where a strategy with a disk tier keeps its pages; the config's folder by default.
        strategy, lifecycle, window_tokens
            Defaults are the plan's. A persistent one begins each prompt with what it finds on
            disk, and leaves there what it has learned; give it to `generate` for one sequence.

        Raises
        ------
        KVStrategyError
            If this runtime's backend cannot hold the strategy or the lifecycle.
        """
        return self._caches.shelf.get_or_create(
            self.model,
            self.plan,
            self.config if cache_dir is None else self.config.copy(cache_dir=cache_dir),
            self.model_path,
            strategy=strategy or self.plan.kv.strategy,
            lifecycle=lifecycle or self.config.kv_cache_lifecycle,
            window_tokens=window_tokens or self.plan.kv.window_tokens,
        )

    def kv_stats(self) -> KVStats:
        """What the runtime's own KV cache holds, and what it has moved."""
        return self._caches.stats()

    def kv_recommendation(self) -> KVRecommendation | None:
        """How the KV cache had better be kept, by what the requests so far have shown.

        Needs ``kv_cache_adaptation_mode`` ``observe-only``, which leaves it at that, or
        ``automatic``, which applies what keeps the same tokens in the same precision.
        """
        return self._caches.recommendation()

    def compare_kv(
        self,
        prompt: Prompt,
        strategies: Sequence[KVStrategyId] | None = None,
        *,
        new_tokens: int = 32,
        budget: KVBudget | None = None,
        window_tokens: int | None = None,
        sink_tokens: int | None = None,
        codec: KVCodecId | None = None,
        cancel: threading.Event | None = None,
        progress: Callable[[ComparisonProgress], None] | None = None,
    ) -> KVComparison:
        """Run one prompt through several KV strategies and put their figures side by side.

        Waits for its turn behind the requests that run.

        Parameters
        ----------
        prompt
            One text, or messages with ``role`` and ``content``.
        strategies
            Which; None is all of them.
        new_tokens
            Tokens of the answer.
        budget
            What each may hold in memory; None is a quarter of all keys and values.
        window_tokens, sink_tokens, codec
            For the strategies that have them; defaults are the plan's.
        cancel
            Set it from another thread to stop.
        progress
            Is told of each token, on the runtime's thread.

        Raises
        ------
        Cancelled
            After `cancel`.
        """
        encoded = encode_prompt(self.tokenizer, prompt)
        input_ids = encoded["input_ids"]
        new_tokens = room_for_new_tokens(
            input_ids.shape[1], new_tokens, self.capabilities.context_length
        )
        kv = self.plan.kv

        def work(stop: threading.Event, emit: Callable[[KVComparison], None]) -> None:
            loaded = self._open()
            with (
                as_out_of_memory(self.plan, loaded.device),
                nullcontext() if loaded.engine is None else loaded.engine.request(stop),
            ):
                emit(
                    compare_kv(
                        loaded.model,
                        input_ids,
                        strategies,
                        new_tokens=new_tokens,
                        budget=budget,
                        window_tokens=window_tokens or kv.window_tokens,
                        sink_tokens=kv.sink_tokens if sink_tokens is None else sink_tokens,
                        codec=codec or kv.codec or DEFAULT_CODEC,
                        folder=kv_folder(self.config),
                        name=self.name,
                        cancel=stop,
                        progress=progress,
                    )
                )

        (comparison,) = self._worker.submit(work).items(cancel)
        return comparison

    def reset_kv_cache_instances(self) -> None:
        """Let go of every cache: those handed out, and what is kept of the last request.

        Persistent pages stay on disk. Waits for its turn behind the requests that run.
        """
        if not self.closed:
            self._on_worker(self._caches.clear)

    def __repr__(self) -> str:
        state = (
            "closed" if self.closed else f"{self.plan.backend_id} on {listed(self.plan.devices)}"
        )
        return f"<LoadedRuntime {self.name}: {state}>"

    def card(self) -> Card:
        """What is loaded, how, what it holds, and how its plan's figures came true."""
        return card_of(self)

    # ------------------------------------------------------------------ on the worker's thread

    @contextmanager
    def _cache_for(self, given: Cache | None) -> Iterator[tuple[Cache | None, PrefixReuse | None]]:
        """Give the request its cache, or what finds it one, and save what came of it."""
        self._running_cache = given
        reuse = self._caches.reuse_of(given)
        try:
            yield (None, reuse) if reuse is not None else (given, None)
        finally:
            self._running_cache = None
            self._note_placement()
            self._note(() if reuse is None else reuse.notes)
        if reuse is not None and reuse.unsaved:
            # Behind the answer, which need not wait for it; `close` sees to it otherwise.
            with contextlib.suppress(RuntimeClosedError):
                self._worker.submit(lambda _stop, _emit: reuse.save())

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

    def _remembering(self, job: Job[Delta], cancel: threading.Event | None) -> Iterator[Delta]:
        """Pass the pieces on, and keep the finished answer's figures for the card."""
        pieces: list[str] = []
        for piece in job.items(cancel):
            pieces.append(piece.text)
            if piece.finish_reason is not None:
                self.last_completion = Completion.of("".join(pieces), self.name, piece)
            yield piece


def _checked(generation: GenerationConfig | None) -> GenerationConfig:
    generation = generation or GenerationConfig()
    generation.validate()
    return generation
