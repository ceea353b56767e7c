"""A model in memory, ready to answer."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollm_widgets.backends.memory import as_out_of_memory
from ollm_widgets.errors import ConfigError, RuntimeClosedError
from ollm_widgets.kv.observation import said
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.planning.kv_choice import kv_folder
from ollm_widgets.planning.kv_presets import DEFAULT_CODEC
from ollm_widgets.planning.parts import listed
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.units import format_memory
from ollm_widgets.runtime.answering import Request, answer, generate_ids
from ollm_widgets.runtime.comparing import compare_kv
from ollm_widgets.runtime.completion import Completion, Delta
from ollm_widgets.runtime.generation import Clock
from ollm_widgets.runtime.memory import MemoryUse, measure
from ollm_widgets.runtime.own_caches import OwnCaches
from ollm_widgets.runtime.prompt import Prompt, attention_for, encode_prompt, room_for_new_tokens
from ollm_widgets.runtime.rebalance import moved_placement, require_room
from ollm_widgets.runtime.reuse import PrefixReuse
from ollm_widgets.runtime.trace import Trace
from ollm_widgets.runtime.tuning import Answered
from ollm_widgets.runtime.worker import Job, ModelWorker

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

    from ollm_widgets.backends.base import Backend, LoadedModel
    from ollm_widgets.kv.budget import KVBudget
    from ollm_widgets.kv.recommending import KVRecommendation
    from ollm_widgets.kv.stats import KVStats
    from ollm_widgets.models.capabilities import CapabilityProfile
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.config import (
        KVCacheLifecycle,
        KVCodecId,
        KVStrategyId,
        RuntimeConfig,
    )
    from ollm_widgets.planning.ids import OffloadPolicy
    from ollm_widgets.planning.parts import LayerPlacement
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.comparison import ComparisonProgress, KVComparison


class LoadedRuntime(Renderable):
    """A loaded model with its plan. Safe to call from several threads: requests queue.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        *,
        resolved_model: ResolvedModel,
        config: RuntimeConfig,
        backend: Backend,
        model_path: Path,
        plan: RuntimePlan,
        loaded: LoadedModel,
    ) -> None:
        self.resolved_model = resolved_model
        self.config = config
        self.backend = backend
        self.model_path = model_path
        self.plan = plan
        self.last_completion: Completion | None = None
        self._loaded: LoadedModel | None = loaded
        self._caches = OwnCaches(lambda: self.plan, loaded, model_path, backend.traits)
        self._running_cache: Cache | None = None
        self._worker = ModelWorker(resolved_model.display_name)

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.resolved_model.display_name

    @property
    def capabilities(self) -> CapabilityProfile:
        """What this runtime can do, in agreement with the plan as applied."""
        return replace(
            self.plan.capabilities,
            supports_disk_cache=self.plan.supports_disk_cache,
            supports_specialization=self.plan.specialization_applied,
        )

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model."""
        return self._open().model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The transformers tokenizer."""
        return self._open().tokenizer

    @property
    def processor(self) -> Any:
        """The transformers processor, or None for a model that reads text only."""
        return self._open().processor

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._open().device

    @property
    def closed(self) -> bool:
        """Whether the model has left memory."""
        return self._loaded is None

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return self._worker.busy

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
                clock = Clock()
                output = generate_ids(self._open(), self.plan, request, clock.watch)
                emit(output)
                self._tune(request, output.shape[1] - input_ids.shape[1], clock.seconds_per_token)

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
                last = answer(self._open(), self.plan, request, emit)
                pace = 1 / last.tokens_per_s if last.tokens_per_s else 0.0
                self._tune(request, last.new_tokens, pace)

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

    # ------------------------------------------------------------------ where its layers are

    def rebalance(
        self,
        offload_gpu_layers: int | None = None,
        offload_cpu_layers: int | None = None,
        offload_cpu_policy: OffloadPolicy | None = None,
        cancel: threading.Event | None = None,
    ) -> LayerPlacement:
        """Move layers between accelerator, host memory and disk without loading again.

        Waits for its turn behind the requests that run.

        Parameters
        ----------
        offload_gpu_layers, offload_cpu_layers
            Layers that shall stay on the accelerator, and in host memory. None for the host keeps
            as many in memory as are there; None for the accelerator keeps its count.
        offload_cpu_policy
            Which are the host's; None keeps the policy.
        cancel
            Set it from another thread to end between two layers; the model works all the same.

        Returns
        -------
        LayerPlacement
            Where the layers are then.

        Raises
        ------
        ConfigError
            If the counts cannot be had, or this backend keeps its layers in one place.
        OutOfMemory
            If a tier has too little room; nothing has moved.
        """
        engine = self._open().engine
        if engine is None:
            raise ConfigError(
                "rebalance",
                f"{self.plan.backend_id} keeps the whole model on one device.",
                hint="Load it with backend='optimized-native' to move layers.",
            )
        on_cpu = self.device.type == "cpu"
        placement = moved_placement(
            engine.placement,
            offload_gpu_layers,
            offload_cpu_layers,
            offload_cpu_policy or self.config.offload_cpu_policy,
            on_cpu=on_cpu,
        )
        require_room(self.plan, placement, engine.layer_bytes, on_cpu=on_cpu)

        def work(stop: threading.Event, emit: Callable[[LayerPlacement], None]) -> None:
            emit(engine.rebalance(placement, stop))

        job = self._worker.submit(work)
        try:
            (reached,) = job.items(cancel)
        finally:
            self._note_placement()
        return reached

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Record where the time of each pass goes, layer by layer, while the context is open.

        Steps are not captured meanwhile: a graph shows its layers to nobody.

        Yields
        ------
        Trace
            Its ``passes`` are filled when the context closes.

        Raises
        ------
        ConfigError
            If this backend does not see its layers.
        """
        engine = self._open().engine
        if engine is None:
            raise ConfigError(
                "trace",
                f"{self.plan.backend_id} does not see the layers of its model.",
                hint="Load it with backend='optimized-native'.",
            )
        trace = Trace()
        self._on_worker(engine.start_trace)
        try:
            yield trace
        finally:
            self._on_worker(lambda: trace.passes.extend(engine.stop_trace()))

    # ------------------------------------------------------------------ what it holds

    def memory(self) -> MemoryUse:
        """Measure the bytes of weights and caches, by tier."""
        if self.closed:
            return MemoryUse()
        loaded = self._open()
        running = () if self._running_cache is None else (self._running_cache,)
        caches = {id(each): each for each in (*self._caches.all(), *running)}
        return measure(loaded.model, caches.values(), loaded.engine)

    def close(self) -> None:
        """Cancel what runs and give the memory back; calling it again does nothing."""
        self._worker.close()
        self._caches.clear()
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        on_accelerator = loaded.device.type == "cuda"
        if loaded.steps is not None:
            loaded.steps.close()
        if loaded.engine is not None:
            loaded.engine.close()
        del loaded
        gc.collect()
        if on_accelerator:
            import torch

            torch.cuda.empty_cache()

    def __enter__(self) -> LoadedRuntime:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = (
            "closed" if self.closed else f"{self.plan.backend_id} on {listed(self.plan.devices)}"
        )
        return f"<LoadedRuntime {self.name}: {state}>"

    def card(self) -> Card:
        """What is loaded, how, and what it holds."""
        use = self.memory()
        rows = [
            Row(
                "Backend",
                f"{self.plan.backend_id}, {self.plan.dtype} on {listed(self.plan.devices)}",
            ),
            Row("Layers", self.plan.placement.summary()),
            Row("KV cache", f"{self.plan.kv.strategy}: {self.plan.kv.why}"),
            Row("KV now", self.kv_stats().summary()),
            Row("Host memory", format_memory(use.host_bytes)),
        ]
        if use.accelerator_bytes:
            rows.append(Row("Accelerator memory", format_memory(use.accelerator_bytes)))
        if self.last_completion is not None:
            rows.append(Row("Last answer", f"{self.last_completion.tokens_per_s:.1f} tokens/s"))
        advised = self.kv_recommendation()
        if advised is not None:
            rows.append(Row("Recommended", f"{said(advised.then)}. {advised.why}", "warn"))
        return Card(
            title=self.name,
            badge="closed" if self.closed else "busy" if self.busy else "loaded",
            tone="neutral" if self.closed else "ok",
            rows=tuple(rows),
        )

    # ------------------------------------------------------------------ on the worker's thread

    def _open(self) -> LoadedModel:
        if self._loaded is None:
            raise RuntimeClosedError(
                f"{self.name} was closed.", hint="Load the model again to use it."
            )
        return self._loaded

    def _on_worker(self, call: Callable[[], None]) -> None:
        """Run `call` between two requests, and wait for it."""
        for _ in self._worker.submit(lambda _stop, _emit: call()).items(None):
            pass

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

    def _tune(self, request: Request, new_tokens: int, seconds_per_token: float) -> None:
        """Learn from a request, and keep the KV cache in another way from here on if need be."""
        if request.reuse is None:
            return
        kept = request.reuse.last.kept_tokens
        answered = Answered(request.input_ids, new_tokens, kept, seconds_per_token)
        kv = self._caches.tune(answered, request.reuse)
        if kv is not None:
            self.plan = self.plan.refine(kv=kv)

    def _note_placement(self) -> None:
        """Say in the plan where the layers are by now, and why."""
        engine = None if self._loaded is None else self._loaded.engine
        if engine is None or engine.placement == self.plan.placement:
            return
        self.plan = self.plan.refine(placement=engine.placement)
        self._note(engine.notes)

    def _note(self, notes: Iterable[str]) -> None:
        """Add to the plan's details what is not said there yet."""
        news = tuple(note for note in notes if note not in self.plan.details)
        if news:
            self.plan = self.plan.refine(details=(*self.plan.details, *news))

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
