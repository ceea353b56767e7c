"""A model in memory with its KV caches: those it fills by itself, and those it hands out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.backends.memory import as_out_of_memory
from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.planning.kv_choice import kv_folder
from ollm_widgets.planning.kv_presets import DEFAULT_CODEC
from ollm_widgets.runtime.comparing import compare_kv
from ollm_widgets.runtime.letting_go import letting_go
from ollm_widgets.runtime.placed import PlacedModel
from ollm_widgets.runtime.prompt import Prompt, encode_prompt, room_for_new_tokens
from ollm_widgets.runtime.reuse import PrefixReuse
from ollm_widgets.runtime.worker import ITSELF

if TYPE_CHECKING:
    from transformers import Cache

    from ollm_widgets.kv.budget import KVBudget
    from ollm_widgets.kv.recommending import KVRecommendation
    from ollm_widgets.kv.stats import KVStats
    from ollm_widgets.planning.config import KVCacheLifecycle, KVCodecId, KVStrategyId
    from ollm_widgets.runtime.comparison import ComparisonProgress, KVComparison


class CachingModel(PlacedModel):
    """A loaded model, what each request leaves for the next, and caches for who wants one."""

    @letting_go
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

    def catch_up(self) -> None:
        """Do nothing: what it says it holds is of now."""

    def kv_recommendation(self) -> KVRecommendation | None:
        """How the KV cache had better be kept, by what the requests so far have shown.

        Needs ``kv_cache_adaptation_mode`` ``observe-only``, which leaves it at that, or
        ``automatic``, which applies what keeps the same tokens in the same precision.
        """
        return self._caches.recommendation()

    @letting_go
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
        caller: str | None = None,
    ) -> KVComparison:
        """Run one prompt through several KV strategies and put their figures side by side.

        Waits for its turn.

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
        caller
            Whose turn it takes; by default that of the calling thread.

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
            self._come_back()
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

        (comparison,) = self._worker.submit(work, caller).items(cancel)
        return comparison

    def reset_kv_cache_instances(self) -> None:
        """Let go of every cache: those handed out, and what is kept of the last request.

        Persistent pages stay on disk. Waits for its turn behind the requests that run.
        """
        if not self.closed:
            self._on_worker(self._caches.clear)

    # ------------------------------------------------------------------ on the worker's thread

    @contextmanager
    def _cache_for(self, given: Cache | None) -> Iterator[tuple[Cache | None, PrefixReuse | None]]:
        """Give the request its cache, or what finds it one, and save what came of it."""
        self._come_back()
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
            self._save_later(reuse)

    def _save_later(self, reuse: PrefixReuse) -> None:
        """Save in a turn of its own what a request has left; several requests share one turn."""
        self._to_save.append(reuse)
        if len(self._to_save) > 1:
            return
        to_save = self._to_save

        def work(_stop: threading.Event, _emit: Callable[[None], None]) -> None:
            taken = to_save[:]
            to_save.clear()
            for each in taken:
                each.save()

        with contextlib.suppress(RuntimeClosedError):
            self._worker.submit(work, ITSELF)
