"""Running `model.generate` so that it can be watched and stopped between tokens and layers."""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from ollm_widgets.errors import Cancelled
from ollm_widgets.runtime.decoding import StepRunner, can_decode, decode_ids

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import Cache, PreTrainedModel
    from transformers import GenerationConfig as TransformersGenerationConfig

    from ollm_widgets.planning.config import GenerationConfig

# Called after each token with all ids so far, [batch, tokens]; True ends the generation.
TokenWatcher = Callable[["torch.Tensor"], bool]


class _CancelledInLayer(BaseException):
    """Unwinds a forward pass; a BaseException, so that no model code swallows it."""


def run_generate(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    generation: GenerationConfig,
    *,
    new_tokens: int,
    cache: Cache | None,
    cancel: threading.Event,
    watch: TokenWatcher,
    steps: StepRunner | None = None,
    read_behind: bool = True,
) -> torch.Tensor:
    """Generate with transformers' own loop, or with `steps` where they do the same.

    Parameters
    ----------
    input_ids, attention_mask
        ``[batch, prompt]``.
    new_tokens
        The most to generate, already within the model's context.
    cache
        The KV cache to fill; None runs without one.
    cancel
        Looked at before every decoder layer and after every token.
    watch
        Sees the ids after each token.
    steps
        Runs prompts and tokens over a cache of its own, in place of `cache`.
    read_behind
        See `decode_ids`.

    Returns
    -------
    torch.Tensor
        ``[batch, prompt + new]``; what there is so far, after a cancel.
    """
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    latest = input_ids

    def note(ids: torch.Tensor) -> bool:
        nonlocal latest
        latest = ids
        return watch(ids)

    class Watcher(StoppingCriteria):
        def __call__(self, ids: Any, scores: Any, **_kwargs: Any) -> torch.Tensor:
            halt = note(ids) or cancel.is_set()
            return torch.full((ids.shape[0],), halt, dtype=torch.bool, device=ids.device)

    config = effective_generation(model, generation, new_tokens)
    config.use_cache = cache is not None
    options: dict[str, Any] = {} if cache is None else {_cache_argument(model): cache}
    with (
        torch.inference_mode(),
        _seeded(generation.seed if generation.temperature > 0 else None, model.device),
        _cancellable_layers(model, cancel),
    ):
        try:
            if steps is not None and can_decode(model, config, input_ids.shape[0]):
                return decode_ids(
                    model,
                    steps,
                    input_ids,
                    attention_mask,
                    config,
                    new_tokens=new_tokens,
                    cancel=cancel,
                    watch=note,
                    read_behind=read_behind,
                )
            return _generate(model)(
                input_ids,
                attention_mask=attention_mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([Watcher()]),
                **options,
            )
        except (_CancelledInLayer, Cancelled):
            return latest.to(input_ids.device)


def _cache_argument(model: PreTrainedModel) -> str:
    """What the model calls its cache: those with nothing but a state have a name of their own."""
    named = inspect.signature(model.forward).parameters
    return "cache_params" if "cache_params" in named else "past_key_values"


def _generate(model: PreTrainedModel) -> Callable[..., torch.Tensor]:
    """Give the model's own `generate`, which nn.Module's type hides."""
    return cast("Callable[..., torch.Tensor]", model.generate)


def effective_generation(
    model: PreTrainedModel, generation: GenerationConfig, new_tokens: int
) -> TransformersGenerationConfig:
    """Lay the request over the model's own generation config.

    Temperature 0 is greedy; the model's sampling defaults apply only above 0 and where the
    request leaves them open.
    """
    effective = copy.deepcopy(model.generation_config)
    effective.max_length = None
    effective.min_length = 0
    effective.max_new_tokens = new_tokens
    effective.num_beams = 1
    if generation.temperature > 0:
        effective.do_sample = True
        effective.temperature = generation.temperature
        for name in ("top_p", "top_k", "min_p"):
            value = getattr(generation, name)
            if value is not None:
                setattr(effective, name, value)
    else:
        effective.do_sample = False
        effective.temperature = effective.top_p = effective.top_k = effective.min_p = None
    if generation.repetition_penalty is not None:
        effective.repetition_penalty = generation.repetition_penalty
    if effective.pad_token_id is None:
        end = effective.eos_token_id
        effective.pad_token_id = end[0] if isinstance(end, list) else end
    return effective


def end_tokens(model: PreTrainedModel) -> frozenset[int]:
    """Ids that end an answer."""
    end = model.generation_config.eos_token_id
    if end is None:
        return frozenset()
    return frozenset(end if isinstance(end, list) else [end])


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList | None:
    """The module list that holds the decoder layers, found by structure, not by name."""
    from torch import nn

    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    return lists[0] if lists else None


@contextmanager
def _cancellable_layers(model: PreTrainedModel, cancel: threading.Event) -> Iterator[None]:
    """Look at `cancel` before each decoder layer, so that a long prompt can be stopped."""

    def check(_layer: nn.Module, _args: Any) -> None:
        if cancel.is_set():
            raise _CancelledInLayer

    hooks = [layer.register_forward_pre_hook(check) for layer in decoder_layers(model) or ()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed sampling for one request and put the generators back as they were."""
    import torch

    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class Clock:
    """Times of one request, from its turn in the queue."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.first_token_s = 0.0

    def seconds(self) -> float:
        """Seconds since the request's turn came."""
        return time.perf_counter() - self._start

    def token(self) -> None:
        """Note a token; the first one is remembered."""
        if not self.first_token_s:
            self.first_token_s = self.seconds()
