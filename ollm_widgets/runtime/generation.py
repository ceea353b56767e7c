"""Running `model.generate` so that it can be watched and stopped between tokens and layers."""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ollm_widgets.errors import Cancelled
from ollm_widgets.runtime.decoding import StepRunner, can_decode, decode_ids

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import Cache, PreTrainedModel
    from transformers import GenerationConfig as TransformersGenerationConfig

    from ollm_widgets.planning.config import GenerationConfig
    from ollm_widgets.runtime.image_inputs import ImageInputs

# Called after each token with all ids so far, [batch, tokens]; True ends the generation.
TokenWatcher = Callable[["torch.Tensor"], bool]


Steps = TypeVar("Steps", bound=StepRunner)


@dataclass(frozen=True, slots=True)
class Run:
    """What a request has come to.

    Parameters
    ----------
    ids
        ``[batch, prompt + new]``; what there is so far, after a cancel.
    cut_short
        Whether it was cancelled in the midst of a pass, so that no cache can be continued from.
    """

    ids: torch.Tensor
    cut_short: bool = False


class CancelledInLayer(BaseException):
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
    keep: int = 0,
    images: ImageInputs | None = None,
) -> Run:
    """Generate with transformers' own loop, or with `steps`.

    Parameters
    ----------
    input_ids, attention_mask
        ``[batch, prompt]``.
    new_tokens
        The most to generate, already within the model's context.
    cache
        The KV cache to fill, which may hold the first tokens; None runs without one.
    cancel
        Looked at before every decoder layer and after every token.
    watch
        Sees the ids after each token.
    steps
        Runs prompts and tokens over a cache of its own, in place of `cache`; see `stepping`.
    read_behind, keep
        See `decode_ids`.
    images
        What the model sees in the prompt; only without `steps`.
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
    config.use_cache = cache is not None or steps is not None
    options: dict[str, Any] = {} if cache is None else {cache_argument(model): cache}
    if images is not None:
        options |= images.given(keep, model)
    _forget_positions(model)
    with (
        torch.inference_mode(),
        _seeded(generation.seed if generation.temperature > 0 else None, model.device),
        cancellable_layers(model, cancel),
    ):
        try:
            if steps is not None:
                ids = decode_ids(
                    model,
                    steps,
                    input_ids,
                    attention_mask,
                    config,
                    new_tokens=new_tokens,
                    cancel=cancel,
                    watch=note,
                    read_behind=read_behind,
                    keep=keep,
                )
                return Run(ids)
            ids = _generate(model)(
                input_ids,
                attention_mask=attention_mask,
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([Watcher()]),
                **options,
            )
        except (CancelledInLayer, Cancelled):
            return Run(latest.to(input_ids.device), cut_short=True)
        return Run(ids)


def stepping(
    model: PreTrainedModel,
    steps: Steps | None,
    generation: GenerationConfig,
    new_tokens: int,
    batch: int,
) -> Steps | None:
    """Return `steps` where they do for a request what transformers' own loop would."""
    if steps is None:
        return None
    config = effective_generation(model, generation, new_tokens)
    return steps if can_decode(model, config, batch) else None


def cache_argument(model: PreTrainedModel) -> str:
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


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder layers, found by structure, not by name.

    Those of a vision part are among them where it has as many.
    """
    from torch import nn

    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    return [
        layer
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
        for layer in module
    ]


@contextmanager
def cancellable_layers(model: PreTrainedModel, cancel: threading.Event) -> Iterator[None]:
    """Look at `cancel` before each decoder layer, so that a long prompt can be stopped."""

    def check(_layer: nn.Module, _args: Any) -> None:
        if cancel.is_set():
            raise CancelledInLayer

    hooks = [layer.register_forward_pre_hook(check) for layer in decoder_layers(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _forget_positions(model: PreTrainedModel) -> None:
    """Have a model count positions anew, which goes by the images of the last request else."""
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None


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
        self.first_token_s = self.last_token_s = 0.0
        self.tokens = 0

    def seconds(self) -> float:
        """Seconds since the request's turn came."""
        return time.perf_counter() - self._start

    def token(self) -> None:
        """Note a token; the first one is remembered."""
        self.last_token_s = self.seconds()
        self.first_token_s = self.first_token_s or self.last_token_s
        self.tokens += 1

    def watch(self, _ids: torch.Tensor) -> bool:
        """Note a token; never ends a generation."""
        self.token()
        return False

    @property
    def seconds_per_token(self) -> float:
        """Seconds for each token after the first; 0 where there was one only."""
        decode_s = self.last_token_s - self.first_token_s
        return decode_s / (self.tokens - 1) if self.tokens > 1 else 0.0
