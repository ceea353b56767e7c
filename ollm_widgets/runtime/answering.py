"""One request on the model's own thread: ids in, ids or pieces of text out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ollm_widgets.backends.memory import as_out_of_memory
from ollm_widgets.errors import OutOfMemory
from ollm_widgets.planning.kv_presets import preset_of
from ollm_widgets.runtime.completion import Delta, FinishReason
from ollm_widgets.runtime.generation import (
    Clock,
    TokenWatcher,
    end_tokens,
    run_generate,
    stepping,
)
from ollm_widgets.runtime.image_inputs import ImageInputs
from ollm_widgets.runtime.letting_go import let_go
from ollm_widgets.runtime.reuse import PrefixReuse, Start
from ollm_widgets.runtime.text import IncrementalDecoder, StopScanner
from ollm_widgets.runtime.truth import MeasuredAnswer

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
    cancel
        Ends it early.
    cache
        The caller's own KV cache to fill; None where there is none.
    reuse
        Gives the request a cache, and what is computed already; None where the caller gives the
        cache, or none is wanted.
    images
        What the model sees in the prompt; None for a text.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    generation: GenerationConfig
    new_tokens: int
    cancel: threading.Event
    cache: Cache | None = None
    reuse: PrefixReuse | None = None
    images: ImageInputs | None = None

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
            images=None if self.images is None else self.images.continued(more),
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
            if loaded.engine is None or request.cache is not None or not unfinished:
                raise
            # What the failed pass held stands in the way of moving layers.
            let_go(error)
            if request.reuse is not None:
                request.reuse.forget()
            if not loaded.engine.make_room():
                raise
            # One of a batch may have ended, and would go on: they all begin anew.
            request = request.continued(latest if latest.shape[0] == 1 else request.input_ids)


def _generate_ids(
    loaded: LoadedModel, plan: RuntimePlan, request: Request, watch: TokenWatcher
) -> torch.Tensor:
    engine, reuse = loaded.engine, request.reuse
    input_ids = request.input_ids.to(loaded.device)
    mask = request.attention_mask.to(loaded.device)
    steps = _steps_for(loaded, plan, request)
    with (
        as_out_of_memory(plan, loaded.device),
        nullcontext() if engine is None else engine.request(request.cancel),
    ):
        start = Start(request.cache)
        if reuse is not None:
            start = reuse.start(
                input_ids, mask, request.new_tokens, steps, request.cancel, images=request.images
            )
        try:
            run = run_generate(
                loaded.model,
                input_ids,
                mask,
                request.generation,
                new_tokens=request.new_tokens,
                cache=start.cache,
                cancel=request.cancel,
                watch=watch if engine is None else _with_hot_experts(engine, watch),
                steps=steps,
                read_behind=engine is None or engine.arranged.resident,
                keep=start.kept_tokens,
                images=request.images,
            )
        except BaseException:
            if reuse is not None:
                reuse.forget()
            raise
        if reuse is not None:
            if run.cut_short:
                reuse.cut_short(run.ids, run.ids.shape[1] - input_ids.shape[1], steps)
            else:
                reuse.finished(run.ids, steps)
        return run.ids


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
    steps = loaded.steps
    preset = preset_of(plan.kv.strategy)
    if steps is None or request.reuse is None or preset.window != "full":
        return None
    if request.images is not None:  # what runs them reads prompts of tokens only
        return None
    batch, prompt = request.input_ids.shape
    # What does not fit its tiers, or a model that cannot read pages in place, has a tiered cache.
    tiered = preset.strategy_id != "resident"
    if tiered and (steps.tiers is None or steps.refuses(batch, prompt + request.new_tokens - 1)):
        return None
    return stepping(loaded.model, steps, request.generation, request.new_tokens, batch)


def answer(
    loaded: LoadedModel,
    plan: RuntimePlan,
    request: Request,
    emit: Callable[[Delta], None],
    clock: Clock,
) -> Delta:
    """Run a request of batch 1 and emit its text.

    Parameters
    ----------
    clock
        Started when the request's turn came; it is told of each token.

    Returns
    -------
    Delta
        The last piece, with a finish reason; the caller emits it.
    """
    prompt_tokens = request.input_ids.shape[1]
    tokenizer = loaded.tokenizer
    decoder = IncrementalDecoder(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))
    scanner = StopScanner(request.generation.stop)
    last = -1

    def delta(text: str, finish_reason: FinishReason | None = None) -> Delta:
        return Delta(
            text,
            prompt_tokens,
            clock.tokens,
            clock.first_token_s,
            clock.seconds(),
            finish_reason,
            reused_tokens=request.reuse.last.kept_tokens if request.reuse is not None else 0,
        )

    def watch(ids: torch.Tensor) -> bool:
        nonlocal last
        last = int(ids[0, -1])
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
    return delta(tail, finish_reason)


def measured_answer(
    loaded: LoadedModel, plan: RuntimePlan, request: Request, clock: Clock
) -> MeasuredAnswer | None:
    """Return the pace of a finished request; None where the plan predicts no such request.

    It predicts one sequence over the runtime's own cache, in captured steps where it says so.
    """
    engine, reuse = loaded.engine, request.reuse
    alone = request.input_ids.shape[0] == 1 and bool(request.attention_mask.all())
    if not alone or not clock.tokens or request.cache is not None:
        return None
    if engine is not None and engine.tracing:
        return None
    if loaded.steps is not None and _steps_for(loaded, plan, request) is None:
        return None
    kept = reuse.last.kept_tokens if reuse is not None else 0
    # Reading a beginning from disk takes time that is not computing.
    restored = reuse is not None and reuse.last.restored_tokens > 0
    return MeasuredAnswer(
        prompt_tokens=request.input_ids.shape[1] - kept,
        history_tokens=kept,
        new_tokens=clock.tokens,
        first_token_s=0.0 if restored else clock.first_token_s,
        seconds_per_token=clock.seconds_per_token,
    )
