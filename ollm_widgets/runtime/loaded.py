"""A model in memory, ready to answer."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import ConfigError, RuntimeClosedError
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.planning.parts import listed
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.units import format_memory
from ollm_widgets.runtime.answering import Request, answer, generate_ids
from ollm_widgets.runtime.caches import CacheShelf
from ollm_widgets.runtime.completion import Completion, Delta
from ollm_widgets.runtime.memory import MemoryUse, measure
from ollm_widgets.runtime.prompt import Prompt, attention_for, encode_prompt, room_for_new_tokens
from ollm_widgets.runtime.rebalance import moved_placement, require_room
from ollm_widgets.runtime.trace import Trace
from ollm_widgets.runtime.worker import Job, ModelWorker

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

    from ollm_widgets.backends.base import Backend, LoadedModel
    from ollm_widgets.models.capabilities import CapabilityProfile
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.config import KVCacheLifecycle, KVStrategyId, RuntimeConfig
    from ollm_widgets.planning.ids import OffloadPolicy
    from ollm_widgets.planning.parts import LayerPlacement
    from ollm_widgets.planning.plan import RuntimePlan


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
        self._caches = CacheShelf(backend.traits)
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
            with self._cache_for(kv_cache) as cache:
                renew = self._renewed_cache if kv_cache is None else None
                request = Request(input_ids, mask, generation, new_tokens, cache, stop, renew)
                emit(generate_ids(self._open(), self.plan, request, lambda _ids: False))

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
            with self._cache_for(None) as cache:
                request = Request(
                    input_ids, mask, generation, new_tokens, cache, stop, self._renewed_cache
                )
                answer(self._open(), self.plan, request, emit)

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
            Where a strategy with a disk tier would keep its pages.
        strategy, lifecycle, window_tokens
            Defaults are the plan's.

        Raises
        ------
        KVStrategyError
            If this runtime's backend cannot hold the strategy or the lifecycle.
        """
        return self._caches.get_or_create(
            self.model,
            cache_dir=cache_dir,
            strategy=strategy or self.plan.kv.strategy,
            lifecycle=lifecycle or self.config.kv_cache_lifecycle,
            window_tokens=window_tokens or self.plan.kv.window_tokens,
        )

    def reset_kv_cache_instances(self) -> None:
        """Forget every cache that `get_or_create_kv_cache` has made."""
        self._caches.clear()

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
        running = self._running_cache
        loaded = self._open()
        kept = None if loaded.steps is None else loaded.steps.cache
        caches = self._caches.all() + tuple(each for each in (running, kept) if each is not None)
        return measure(loaded.model, caches, loaded.engine)

    def close(self) -> None:
        """Cancel what runs and give the memory back; calling it again does nothing."""
        self._worker.close()
        self.reset_kv_cache_instances()
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
            Row("Host memory", format_memory(use.host_bytes)),
        ]
        if use.accelerator_bytes:
            rows.append(Row("Accelerator memory", format_memory(use.accelerator_bytes)))
        if self.last_completion is not None:
            rows.append(Row("Last answer", f"{self.last_completion.tokens_per_s:.1f} tokens/s"))
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
    def _cache_for(self, given: Cache | None) -> Iterator[Cache | None]:
        """Give the request its cache, and let `memory` see it while the request runs."""
        cache = self._running_cache = self._new_cache() if given is None else given
        try:
            yield cache
        finally:
            self._running_cache = None
            self._note_placement()

    def _note_placement(self) -> None:
        """Say in the plan where the layers are by now, and why."""
        engine = None if self._loaded is None else self._loaded.engine
        if engine is None or engine.placement == self.plan.placement:
            return
        news = (note for note in engine.notes if note not in self.plan.details)
        self.plan = self.plan.refine(
            placement=engine.placement, details=(*self.plan.details, *news)
        )

    def _renewed_cache(self) -> Cache | None:
        """Another empty cache for the request that runs."""
        self._running_cache = self._new_cache()
        return self._running_cache

    def _new_cache(self) -> Cache | None:
        kv = self.plan.kv
        if not self.config.use_cache:
            return None
        return build_cache(self.model, kv.strategy, kv.window_tokens)

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
