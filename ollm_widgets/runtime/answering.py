"""One request on the model's own thread: ids in, ids or pieces of text out."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ollm_widgets.backends.memory import as_out_of_memory
from ollm_widgets.errors import OutOfMemory
from ollm_widgets.kv.window import window_of, windowed_attention
from ollm_widgets.runtime.completion import Delta, FinishReason
from ollm_widgets.runtime.generation import Clock, TokenWatcher, end_tokens, run_generate
from ollm_widgets.runtime.text import IncrementalDecoder, StopScanner

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from ollm_widgets.backends.base import LoadedModel
    from ollm_widgets.planning.config import GenerationConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.weights.engine import WeightEngine
    from ollm_widgets.weights.steps.capture import CapturedSteps

# Often enough to follow a text from one subject to the next; moving waits for the device.
_TOKENS_BETWEEN_MOVES = 16


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate.

    Parameters
    ----------
    input_ids, attention_mask
        ``[batch, prompt]``.
    generation, new_tokens
        How, and at most how many.
    cache
        The KV cache to fill.
    cancel
        Ends it early.
    renew
        Makes another empty cache; None where the cache is the caller's.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    generation: GenerationConfig
    new_tokens: int
    cache: Cache | None
    cancel: threading.Event
    renew: Callable[[], Cache | None] | None = None

    def continued(self, ids: torch.Tensor) -> Request:
        """Return the rest of the request, from the ids ``[batch, tokens]`` there are so far."""
        import torch

        more = ids.shape[1] - self.input_ids.shape[1]
        ones = self.attention_mask.new_ones((ids.shape[0], more))
        return replace(
            self,
            input_ids=ids.to(self.input_ids.device),
            attention_mask=torch.cat((self.attention_mask, ones), dim=1),
            new_tokens=self.new_tokens - more,
            cache=self.renew() if self.renew is not None else None,
        )


def generate_ids(
    loaded: LoadedModel, plan: RuntimePlan, request: Request, watch: TokenWatcher
) -> torch.Tensor:
    """Run the request; ``[batch, prompt + new]``.

    Where the accelerator runs out of memory, layers leave it and the request goes on from the
    token where it was.
    """
    latest = request.input_ids

    def note(ids: torch.Tensor) -> bool:
        nonlocal latest
        latest = ids
        return watch(ids)

    while True:
        try:
            return _generate_ids(loaded, plan, request, note)
        except OutOfMemory as error:
            unfinished = latest.shape[1] < request.input_ids.shape[1] + request.new_tokens
            if loaded.engine is None or request.renew is None or not unfinished:
                raise
            # What the failed pass held stands in the way of moving layers.
            _let_go(error, request.cache)
            request = replace(request, cache=None)
            if not loaded.engine.make_room():
                raise
            # One of a batch may have ended, and would go on: they all begin anew.
            request = request.continued(latest if latest.shape[0] == 1 else request.input_ids)


def _let_go(error: BaseException, cache: Cache | None) -> None:
    """Free the tensors that the frames of an error still hold, and those of a cache."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__
    if cache is not None:
        cache.layers.clear()


def _generate_ids(
    loaded: LoadedModel, plan: RuntimePlan, request: Request, watch: TokenWatcher
) -> torch.Tensor:
    engine = loaded.engine
    with (
        as_out_of_memory(plan, loaded.device),
        windowed_attention(loaded.model, window_of(request.cache)),
        nullcontext() if engine is None else engine.request(request.cancel),
    ):
        return run_generate(
            loaded.model,
            request.input_ids.to(loaded.device),
            request.attention_mask.to(loaded.device),
            request.generation,
            new_tokens=request.new_tokens,
            cache=request.cache,
            cancel=request.cancel,
            watch=watch if engine is None else _with_hot_experts(engine, watch),
            steps=_steps_for(loaded, plan, request),
            read_behind=engine is None or engine.arranged.resident,
        )


def _with_hot_experts(engine: WeightEngine, watch: TokenWatcher) -> TokenWatcher:
    """Let the experts that are used most come near, after the prompt and every few tokens."""
    tokens = 0

    def watching(ids: torch.Tensor) -> bool:
        nonlocal tokens
        if tokens % _TOKENS_BETWEEN_MOVES == 0:
            engine.arranged.between_steps()
        tokens += 1
        return watch(ids)

    return watching if engine.arranged.experts else watch


def _steps_for(loaded: LoadedModel, plan: RuntimePlan, request: Request) -> CapturedSteps | None:
    """Return the captured steps, where their cache keeps what the request's would."""
    engine = loaded.engine
    traced = engine is not None and engine.tracing
    keeps_all = plan.kv.strategy == "resident" and request.cache is not None
    return loaded.steps if keeps_all and request.renew is not None and not traced else None


def answer(
    loaded: LoadedModel, plan: RuntimePlan, request: Request, emit: Callable[[Delta], None]
) -> None:
    """Run a request of batch 1 and emit its text; the last piece has a finish reason."""
    prompt_tokens = request.input_ids.shape[1]
    tokenizer = loaded.tokenizer
    decoder = IncrementalDecoder(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))
    scanner = StopScanner(request.generation.stop)
    clock = Clock()
    count, last = 0, -1

    def delta(text: str, finish_reason: FinishReason | None = None) -> Delta:
        return Delta(
            text, prompt_tokens, count, clock.first_token_s, clock.seconds(), finish_reason
        )

    def watch(ids: torch.Tensor) -> bool:
        nonlocal count, last
        last = int(ids[0, -1])
        count += 1
        clock.token()
        if text := scanner.push(decoder.push([last])):
            emit(delta(text))
        return scanner.found

    generate_ids(loaded, plan, request, watch)
    tail = scanner.push(decoder.flush()) + scanner.flush()
    finish_reason: FinishReason = "length"
    if scanner.found:
        finish_reason = "stop-string"
    elif last in end_tokens(loaded.model):
        finish_reason = "stop"
    elif request.cancel.is_set():
        finish_reason = "cancelled"
    emit(delta(tail, finish_reason))
