"""One request on the model's own thread: ids in, ids or pieces of text out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.backends.memory import as_out_of_memory
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


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate; ids and mask are ``[batch, prompt]``."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    generation: GenerationConfig
    new_tokens: int
    cache: Cache | None
    cancel: threading.Event


def generate_ids(
    loaded: LoadedModel, plan: RuntimePlan, request: Request, watch: TokenWatcher
) -> torch.Tensor:
    """Run the request; ``[batch, prompt + new]``."""
    with (
        as_out_of_memory(plan, loaded.device),
        windowed_attention(loaded.model, window_of(request.cache)),
    ):
        return run_generate(
            loaded.model,
            request.input_ids.to(loaded.device),
            request.attention_mask.to(loaded.device),
            request.generation,
            new_tokens=request.new_tokens,
            cache=request.cache,
            cancel=request.cancel,
            watch=watch,
        )


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
