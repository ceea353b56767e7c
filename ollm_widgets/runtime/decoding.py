"""Our own decode loop: what transformers' `generate` does, without its Python between tokens."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig as TransformersGenerationConfig
    from transformers import PreTrainedModel

# Sees all ids so far, [batch, tokens], after each token; True ends the generation.
Watch = Callable[["torch.Tensor"], bool]

# What `generate` may build out of a request of ours; anything else is left to `generate`.
_PROCESSORS = frozenset(
    {
        "RepetitionPenaltyLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
    }
)
# Settings of a generation config that only `generate` obeys, beyond its logits processors.
_FOREIGN = (
    "assistant_early_exit",
    "cache_implementation",
    "max_time",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "return_dict_in_generate",
    "stop_strings",
    "token_healing",
    "use_mtp",
)
# Methods that a model with a loop of its own overrides.
_LOOP = ("generate", "_sample", "_prefill", "_update_model_kwargs_for_generation")


class StepRunner(Protocol):
    """Runs prompts and single tokens through a model; tensors are on the model's device."""

    @property
    def chosen(self) -> torch.Tensor:
        """The likeliest next tokens ``[batch, 1]`` after the last pass."""
        ...

    def begin(self, batch: int, tokens: int, *, padded: bool = False, keep: int = 0) -> None:
        """Make room for `tokens` of each sequence; continue from the first `keep`."""
        ...

    def prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run prompts ``[batch, prompt]``; logits ``[batch, vocab]``, valid until the next pass."""
        ...

    def step(self, token_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Run tokens ``[batch, 1]``, or `chosen`; logits as of `prefill`."""
        ...

    def rewind(self, steps: int) -> None:
        """Take the last tokens back."""
        ...


def can_decode(model: PreTrainedModel, config: TransformersGenerationConfig, batch: int) -> bool:
    """Whether `decode_ids` does for this request what `generate` would.

    Parameters
    ----------
    model
        The model.
    config
        The request laid over the model's own generation config.
    batch
        Sequences.
    """
    from transformers import GenerationMixin

    if model.config.is_encoder_decoder or batch < 1:
        return False
    kind = type(model)
    if any(getattr(kind, name, None) is not getattr(GenerationMixin, name, None) for name in _LOOP):
        return False
    prepared = _prepared(model, config, length=2, batch=batch)
    if prepared.get_generation_mode() not in ("greedy_search", "sample"):
        return False
    if (prepared.num_return_sequences or 1) > 1 or prepared.use_cache is False:
        return False
    if any(getattr(prepared, name, None) for name in _FOREIGN):
        return False
    processors = _processors(model, prepared, prompt=1, mask=None)
    return all(type(processor).__name__ in _PROCESSORS for processor in processors)


def decode_ids(
    model: PreTrainedModel,
    steps: StepRunner,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    config: TransformersGenerationConfig,
    *,
    new_tokens: int,
    cancel: threading.Event,
    watch: Watch,
    read_behind: bool = True,
    keep: int = 0,
) -> torch.Tensor:
    """Generate the tokens that `generate` would, one at a time.

    Parameters
    ----------
    model
        The model that `steps` runs.
    steps
        Runs it.
    input_ids, attention_mask
        ``[batch, prompt]`` on the model's device, padded on the left.
    config
        A config that `can_decode` has accepted.
    new_tokens
        The most to generate.
    cancel
        Looked at for every token.
    watch
        Sees the ids after each token, ``[batch, tokens]`` on the CPU; True ends the generation.
    read_behind
        Launch the next step before a token is read, so that the device never waits for the
        host; at most one step is then taken back. Not worth it where a step is slow.
    keep
        Tokens of the prompt that the cache of `steps` holds already.

    Returns
    -------
    torch.Tensor
        ``[batch, prompt + new]`` on the device of `input_ids`; what there is, after a cancel.
    """
    import torch

    batch, prompt = input_ids.shape
    padded = not bool(attention_mask.all())
    prepared = _prepared(model, config, length=prompt + new_tokens, batch=batch)
    mask = attention_mask if padded else None
    choose = _Choice(steps, _processors(model, prepared, prompt=prompt, mask=mask), prepared)
    choose.follow(input_ids, new_tokens)
    ids = torch.empty(batch, prompt + new_tokens, dtype=torch.long)
    ids[:, :prompt] = input_ids
    answer = _Answer(ids, prompt, prepared)
    reading = _Reading(batch, input_ids.device)

    # The last token is never run, so there is no room for it.
    steps.begin(batch, prompt + new_tokens - 1, padded=padded, keep=keep)
    token = choose.next(steps.prefill(input_ids, attention_mask))
    reading.start(token)
    launched = 1
    while True:
        if read_behind and launched < new_tokens and not cancel.is_set():
            token = choose.next(steps.step(choose.feed(token)))
            reading.start(token)
            launched += 1
        over = answer.add(reading.finish())
        over |= watch(answer.so_far) or cancel.is_set()
        if over or answer.new == new_tokens:
            break
        if launched == answer.new:
            token = choose.next(steps.step(choose.feed(token)))
            reading.start(token)
            launched += 1
    steps.rewind(launched - answer.new)
    return answer.so_far.to(input_ids.device)


def _prepared(
    model: PreTrainedModel, config: TransformersGenerationConfig, *, length: int, batch: int
) -> Any:
    """Fill a config's gaps as `generate` does at its start."""
    own: Any = model
    prepared, _ = own._prepare_generation_config(copy.deepcopy(config))
    # Only Python looks at these tokens, which would wait for a device to give them back.
    own._prepare_special_tokens(prepared, True, device="cpu", batch_size=batch)
    prepared.max_length = length
    return prepared


def _processors(
    model: PreTrainedModel, prepared: Any, *, prompt: int, mask: torch.Tensor | None
) -> list[Any]:
    """What `generate` puts logits through, in its order."""
    own: Any = model
    built: list[Any] = own._get_logits_processor(
        generation_config=prepared,
        input_ids_seq_length=prompt,
        device=model.device,
        model_kwargs={"attention_mask": mask},
    )
    return built


class _Choice:
    """Chooses the next tokens on the device."""

    def __init__(self, steps: StepRunner, processors: list[Any], prepared: Any) -> None:
        self._steps = steps
        self._processors = processors
        self._samples = bool(prepared.do_sample)
        self._greedy = not self._samples and not processors
        self._ids: torch.Tensor | None = None
        self._count = 0

    def follow(self, input_ids: torch.Tensor, new_tokens: int) -> None:
        """Keep the ids on the device too where a processor looks at them."""
        if self._processors:
            batch, self._count = input_ids.shape
            self._ids = input_ids.new_zeros(batch, self._count + new_tokens)
            self._ids[:, : self._count] = input_ids

    def next(self, logits: torch.Tensor) -> torch.Tensor:
        """Choose tokens ``[batch, 1]`` by logits ``[batch, vocab]``."""
        import torch

        if self._greedy:
            return self._steps.chosen
        scores = logits.to(torch.float32, copy=True)
        for processor in self._processors:
            scores = processor(self._seen(), scores)
        if self._samples:
            token = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1)
        else:
            token = scores.argmax(dim=-1, keepdim=True)
        if self._ids is not None:
            self._ids[:, self._count : self._count + 1] = token
            self._count += 1
        return token

    def _seen(self) -> torch.Tensor | None:
        return None if self._ids is None else self._ids[:, : self._count]

    def feed(self, token: torch.Tensor) -> torch.Tensor | None:
        """What the next step is given: nothing where it goes on with its own choice."""
        return None if self._greedy else token


class _Answer:
    """The ids so far, with padding after a sequence's end."""

    def __init__(self, ids: torch.Tensor, prompt: int, prepared: Any) -> None:
        end = prepared._eos_token_tensor
        self._ends = frozenset() if end is None else frozenset(end.tolist())
        pad = prepared._pad_token_tensor
        self._pad = None if pad is None else int(pad)
        self._ids = ids
        self._prompt = self._count = prompt
        self._ended = [False] * ids.shape[0]

    @property
    def new(self) -> int:
        """Tokens after the prompt."""
        return self._count - self._prompt

    @property
    def so_far(self) -> torch.Tensor:
        """Ids ``[batch, tokens]``; the same memory each time, which only grows."""
        return self._ids[:, : self._count]

    def add(self, tokens: list[int]) -> bool:
        """Append one token of each sequence; whether all have ended."""
        for row, token in enumerate(tokens):
            if self._ended[row] and self._pad is not None:
                self._ids[row, self._count] = self._pad
                continue
            self._ids[row, self._count] = token
            self._ended[row] = token in self._ends
        self._count += 1
        return all(self._ended)


class _Reading:
    """Brings tokens to the host without stopping the device, first in, first out."""

    def __init__(self, batch: int, device: torch.device) -> None:
        import torch

        self._on_device = device.type == "cuda"
        self._free = [
            torch.empty(batch, dtype=torch.long, device="cpu", pin_memory=self._on_device)
            for _ in range(2)
        ]
        count = 2 if self._on_device else 0
        self._events: list[Any] = [
            torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            for _ in range(count)
        ]
        self._started: deque[int] = deque()
        self._turn = 0

    def start(self, token: torch.Tensor) -> None:
        """Begin to read ``[batch, 1]``; at most two at a time."""
        slot, self._turn = self._turn, 1 - self._turn
        self._free[slot].copy_(token.view(-1), non_blocking=self._on_device)
        if self._on_device:
            self._events[slot].record()
        self._started.append(slot)

    def finish(self) -> list[int]:
        """Wait for the oldest read."""
        slot = self._started.popleft()
        if self._on_device:
            self._events[slot].synchronize()
        tokens: list[int] = self._free[slot].tolist()
        return tokens
