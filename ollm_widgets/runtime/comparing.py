"""Running the same prompt and the same new tokens through several KV strategies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ollm_widgets.backends.memory import is_allocation_failure
from ollm_widgets.errors import Cancelled, ConfigError, OllmError
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.kv.measuring import cache_stats
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.config import GenerationConfig
from ollm_widgets.planning.ids import KVCodecId, KVStrategyId
from ollm_widgets.planning.kv_presets import DEFAULT_WINDOW_TOKENS
from ollm_widgets.runtime.comparison import ComparisonProgress, KVComparison, KVComparisonRow
from ollm_widgets.runtime.generation import (
    CancelledInLayer,
    cache_argument,
    cancellable_layers,
    effective_generation,
)

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel

STRATEGIES: tuple[KVStrategyId, ...] = get_args(KVStrategyId)
# Of all keys and values, so that every tier that a strategy has is seen at work.
_HOT_SHARE = 4
# The first tokens after a start pay for what is loaded and compiled once.
_WARM_UP_TOKENS = 16
_UNTIMED_STEPS = 1

ProgressSink = Callable[[ComparisonProgress], None]


def compare_kv(
    model: PreTrainedModel,
    prompt_ids: torch.Tensor,
    strategies: Sequence[KVStrategyId] | None = None,
    *,
    new_tokens: int = 32,
    budget: KVBudget | None = None,
    window_tokens: int | None = None,
    sink_tokens: int = 0,
    codec: KVCodecId = "int8",
    folder: Path | None = None,
    name: str = "",
    cancel: threading.Event | None = None,
    progress: ProgressSink | None = None,
) -> KVComparison:
    """Compare KV strategies on one prompt; the memory of each is given back before the next.

    A cache that keeps everything in full precision answers greedily first. Each strategy then
    reads the same prompt and is fed the same answer token by token, so that its distributions can
    be held against those of the reference.

    Parameters
    ----------
    model
        The model; it computes on its own device, and must not be in use.
    prompt_ids
        ``[1, prompt]``.
    strategies
        Which; None is all of them.
    new_tokens
        Tokens of the answer; an end of text does not end it.
    budget
        What a cache may hold of each tier; None is a quarter of all keys and values on the
        computing device, and as much in host memory.
    window_tokens, sink_tokens, codec
        As in the config, for those strategies that have them.
    folder
        Where pages go to disk while they are needed; None is this application's cache folder.
    name
        What a person calls the model.
    cancel
        Set it from another thread to stop between two layers.
    progress
        Is told of each token.

    Raises
    ------
    ConfigError
        For an unknown strategy, a batch, or no new tokens.
    Cancelled
        After `cancel`.
    """
    chosen = _checked(strategies, prompt_ids, new_tokens)
    cancel = cancel or threading.Event()
    report = progress or (lambda _: None)
    runner = _Runner(model, prompt_ids.to(model.device), new_tokens, cancel)

    def told(strategy: KVStrategyId | None, done: int) -> Callable[[int], None]:
        return lambda tokens: report(
            ComparisonProgress(strategy, done, len(chosen) + 1, tokens, new_tokens)
        )

    runner.warm_up()
    reference = runner.run(build_cache(model, "resident"), None, told(None, 0))
    full_bytes = reference.memory_at_end.accelerator_bytes
    share = -(-full_bytes // _HOT_SHARE)
    bound = budget or KVBudget(share, share)

    def row(done: int, strategy: KVStrategyId) -> KVComparisonRow:
        window = window_tokens or DEFAULT_WINDOW_TOKENS
        windowed = strategy == "sliding-window-ring-buffer"
        try:
            cache = build_cache(
                model,
                strategy,
                window if windowed else None,
                sink_tokens=sink_tokens if windowed else 0,
                budget=bound,
                folder=folder,
                codec=codec,
            )
            return runner.run(cache, reference, told(strategy, done)).row(strategy, reference)
        except Cancelled:
            raise
        except OllmError as error:
            return KVComparisonRow(strategy, error=str(error))
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_failure(error):
                raise
            return KVComparisonRow(strategy, error=f"{model.device} ran out of memory.")

    rows = tuple(row(done, strategy) for done, strategy in enumerate(chosen, start=1))
    return KVComparison(
        rows,
        model=name or type(model).__name__,
        machine=_machine(model),
        device_tier="RAM" if model.device.type == "cpu" else "GPU memory",
        prompt_tokens=prompt_ids.shape[1],
        new_tokens=new_tokens,
        full_bytes=full_bytes,
        budget_bytes=bound.accelerator_bytes,
    )


def _checked(
    strategies: Sequence[KVStrategyId] | None, prompt_ids: torch.Tensor, new_tokens: int
) -> tuple[KVStrategyId, ...]:
    chosen = STRATEGIES if strategies is None else tuple(strategies)
    for each in chosen:
        if each not in STRATEGIES:
            raise ConfigError(
                "strategies", f"{each!r} is none.", hint=f"Use some of {', '.join(STRATEGIES)}."
            )
    if prompt_ids.ndim != 2 or prompt_ids.shape[0] != 1 or prompt_ids.shape[1] == 0:
        raise ConfigError("prompt_ids", f"must be [1, tokens], got shape {list(prompt_ids.shape)}.")
    if new_tokens < 1:
        raise ConfigError("new_tokens", f"{new_tokens} is too few.", hint="Use at least 1.")
    return chosen


@dataclass(slots=True)
class _Run:
    """What one pass over prompt and answer has given.

    Parameters
    ----------
    logits
        ``[new, vocab]`` in float32 on the CPU.
    chosen
        Its own likeliest tokens.
    times_s
        When each token was there, from the start.
    memory, memory_at_end
        Figures of the cache after the prompt, and after the last token but one.
    """

    logits: torch.Tensor | None = None
    chosen: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    memory: KVStats = field(default_factory=KVStats)
    memory_at_end: KVStats = field(default_factory=KVStats)

    def row(self, strategy: KVStrategyId, reference: _Run) -> KVComparisonRow:
        """Hold it against the reference."""
        divergences = _divergences(reference.logits, self.logits)
        same = sum(a == b for a, b in zip(reference.chosen, self.chosen, strict=True))
        steps = [after - before for before, after in pairwise(self.times_s)]
        timed = steps[_UNTIMED_STEPS:] or steps
        return KVComparisonRow(
            strategy,
            memory=self.memory,
            time_to_first_token_s=self.times_s[0],
            seconds_per_token=sum(timed) / len(timed) if timed else 0.0,
            kl_mean_nats=sum(divergences) / len(divergences),
            kl_max_nats=max(divergences),
            agreement=same / len(self.chosen),
        )


class _Runner:
    """Runs prompt and answer through one cache after the other."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompt_ids: torch.Tensor,
        new_tokens: int,
        cancel: threading.Event,
    ) -> None:
        self._model = model
        self._prompt_ids = prompt_ids
        self._new_tokens = new_tokens
        self._cancel = cancel

    def warm_up(self) -> None:
        """Pay for what is paid once: threads, kernels, lazy imports."""
        short = _Runner(self._model, self._prompt_ids[:, :_WARM_UP_TOKENS], 2, self._cancel)
        short.run(build_cache(self._model, "resident"), None, lambda _tokens: None)

    def run(self, cache: Cache, reference: _Run | None, told: Callable[[int], None]) -> _Run:
        """Fill `cache`, with the tokens of `reference` or its own greedy ones, and close it."""
        import torch
        from transformers import LogitsProcessorList

        model: Any = self._model
        run = _Run()
        fed = None if reference is None else reference.chosen
        config = effective_generation(
            self._model, GenerationConfig(max_new_tokens=self._new_tokens), self._new_tokens
        )
        config.min_length = self._prompt_ids.shape[1] + self._new_tokens
        config.output_logits = config.return_dict_in_generate = True
        started = time.perf_counter()

        def observe(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if self._cancel.is_set():
                raise CancelledInLayer
            token = int(scores[0].argmax())  # waits for the device
            run.times_s.append(time.perf_counter() - started)
            run.chosen.append(token)
            if len(run.chosen) == 1:
                run.memory = cache_stats(cache)
            if len(run.chosen) == self._new_tokens:
                run.memory_at_end = cache_stats(cache)
            told(len(run.chosen))
            if fed is None:
                return scores
            forced = torch.full_like(scores, float("-inf"))
            forced[0, fed[len(run.chosen) - 1]] = 0.0
            return forced

        try:
            with (
                torch.inference_mode(),
                cancellable_layers(self._model, self._cancel),
            ):
                output = model.generate(
                    self._prompt_ids,
                    attention_mask=torch.ones_like(self._prompt_ids),
                    generation_config=config,
                    logits_processor=LogitsProcessorList([observe]),
                    **{cache_argument(self._model): cache},
                )
        except CancelledInLayer:
            raise Cancelled("The comparison was cancelled.") from None
        finally:
            _release(cache, self._model.device)
        run.logits = torch.cat([each.float().cpu() for each in output.logits])
        return run


def _release(cache: Cache, device: torch.device) -> None:
    """Give a cache's memory and files back, whoever else still holds it."""
    import torch

    close = getattr(cache, "close", None)
    if close is not None:
        # What was made in inference mode can only be changed there.
        with torch.inference_mode():
            close()
    cache.layers.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _divergences(reference: torch.Tensor | None, other: torch.Tensor | None) -> list[float]:
    """KL(reference || other) of each row of ``[new, vocab]`` logits, in nats."""
    if reference is None or other is None:
        raise RuntimeError("a run that has ended has logits")
    p, q = (logits.double().log_softmax(dim=-1) for logits in (reference, other))
    # A token that a model rules out has a probability of 0, and no part in the sum.
    terms = (p.exp() * (p - q)).nan_to_num(nan=0.0, posinf=float("inf"))
    return [max(0.0, float(each)) for each in terms.sum(dim=-1)]


def _machine(model: PreTrainedModel) -> str:
    """Say what computed: device, dtype and versions."""
    import torch
    import transformers

    device = model.device
    where = f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        where = device.type
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{where}, {dtype}; torch {torch.__version__}, transformers {transformers.__version__}."
