"""The decode loop against `generate`: the same tokens, whatever is asked of it."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedModel

from ollm_widgets import GenerationConfig
from ollm_widgets.runtime.decoding import StepRunner, can_decode, decode_ids
from ollm_widgets.runtime.generation import effective_generation, run_generate
from ollm_widgets.weights.steps.eager import EagerSteps
from tests.models.architectures import ARCHITECTURES, build
from tests.weights.replaying import TracedSteps

NAMES = (
    "llama",
    "mistral",
    "qwen3_moe",
    "qwen3_next",
    "gemma2",
    "gemma3_text",
    "qwen2_vl",
    "gpt2",
    "gpt_oss",
    "deepseek_v3",
    "mamba2",
)
VOCABULARY = 64
CPU = torch.device("cpu")


@cache
def model_of(name: str) -> PreTrainedModel:
    (architecture,) = (a for a in ARCHITECTURES if a.model_type == name)
    return build(architecture).float().eval()


@cache
def runner(name: str, kind: str) -> EagerSteps:
    return (TracedSteps if kind == "captured" else EagerSteps)(model_of(name), CPU)


def prompts(lengths: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(3, VOCABULARY, shape, generator=generator)
    mask = torch.ones(shape, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, : shape[1] - length] = 0
    return ids.masked_fill(mask == 0, 0), mask


def reference(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, asked: GenerationConfig
) -> torch.Tensor:
    return run_generate(
        model,
        ids,
        mask,
        asked,
        new_tokens=asked.max_new_tokens,
        cache=None if "Mamba" in type(model).__name__ else DynamicCache(config=model.config),
        cancel=threading.Event(),
        watch=lambda _ids: False,
    ).ids


def decode(
    model: PreTrainedModel,
    steps: StepRunner,
    ids: torch.Tensor,
    mask: torch.Tensor,
    asked: GenerationConfig,
    *,
    stop_after: int | None = None,
    by_cancel: bool = False,
    **options: Any,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the loop gives, and what the watcher saw."""
    seen: list[torch.Tensor] = []
    cancel = threading.Event()

    def watch(so_far: torch.Tensor) -> bool:
        seen.append(so_far.clone())
        over = len(seen) == stop_after
        if over and by_cancel:
            cancel.set()
            return False
        return over

    config = effective_generation(model, asked, asked.max_new_tokens)
    assert can_decode(model, config, ids.shape[0])
    if asked.seed is not None:
        torch.manual_seed(asked.seed)
    with torch.inference_mode():
        out = decode_ids(
            model,
            steps,
            ids,
            mask,
            config,
            new_tokens=asked.max_new_tokens,
            cancel=cancel,
            watch=watch,
            **options,
        )
    return out, seen


@pytest.mark.parametrize("kind", ["eager", "captured"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [(9,), (9, 4, 7)], ids=["one", "padded"])
def test_greedy_tokens_are_those_of_generate(
    name: str, lengths: tuple[int, ...], kind: str
) -> None:
    model, steps = model_of(name), runner(name, kind)
    ids, mask = prompts(lengths)
    asked = GenerationConfig(max_new_tokens=24)
    out, seen = decode(model, steps, ids, mask, asked)
    assert torch.equal(out, reference(model, ids, mask, asked))
    assert [row.shape[1] for row in seen] == list(range(ids.shape[1] + 1, out.shape[1] + 1))
    if kind == "captured":
        assert isinstance(steps, TracedSteps)
        assert steps.refusal is None
        assert steps.captured


REQUESTS = st.builds(
    GenerationConfig,
    max_new_tokens=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 1.6]),
    top_p=st.sampled_from([None, 0.5, 0.95, 1.0]),
    top_k=st.sampled_from([None, 0, 1, 5]),
    min_p=st.sampled_from([None, 0.05]),
    repetition_penalty=st.sampled_from([None, 1.0, 1.3]),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=REQUESTS,
    name=st.sampled_from(("llama", "qwen3_moe", "gemma2", "gpt2", "gpt_oss")),
    lengths=st.lists(st.integers(1, 18), min_size=1, max_size=3).map(tuple),
    kind=st.sampled_from(["eager", "captured"]),
    behind=st.booleans(),
    prompt=st.integers(0, 1000),
)
def test_any_request_gives_the_tokens_of_generate(
    asked: GenerationConfig,
    name: str,
    lengths: tuple[int, ...],
    kind: str,
    behind: bool,
    prompt: int,
) -> None:
    model = model_of(name)
    ids, mask = prompts(lengths, prompt)
    expected = reference(model, ids, mask, asked)
    out, _ = decode(model, runner(name, kind), ids, mask, asked, read_behind=behind)
    assert torch.equal(out, expected)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(("llama", "gemma2", "qwen3_next")),
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=3).map(tuple),
    end=st.integers(0, 19),
    kind=st.sampled_from(["eager", "captured"]),
    behind=st.booleans(),
)
def test_a_sequence_that_ends_is_padded_until_the_others_end(
    name: str, lengths: tuple[int, ...], end: int, kind: str, behind: bool
) -> None:
    model = model_of(name)
    ids, mask = prompts(lengths)
    asked = GenerationConfig(max_new_tokens=20)
    before = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    try:
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
        free = reference(model, ids, mask, asked)
        # An end that does come, in the first sequence at the latest at this token.
        model.generation_config.eos_token_id = [int(free[0, ids.shape[1] + end]), 1]
        expected = reference(model, ids, mask, asked)
        out, _ = decode(model, runner(name, kind), ids, mask, asked, read_behind=behind)
    finally:
        model.generation_config.eos_token_id, model.generation_config.pad_token_id = before
    assert torch.equal(out, expected)


@pytest.mark.parametrize("kind", ["eager", "captured"])
@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("by_cancel", [True, False])
@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_a_request_that_is_stopped_leaves_the_next_one_untouched(
    name: str, by_cancel: bool, behind: bool, kind: str
) -> None:
    model, steps = model_of(name), runner(name, kind)
    ids, mask = prompts((6,))
    asked = GenerationConfig(max_new_tokens=16)
    expected = reference(model, ids, mask, asked)
    for stop_after in (1, 5, 16):
        out, _ = decode(
            model,
            steps,
            ids,
            mask,
            asked,
            stop_after=stop_after,
            by_cancel=by_cancel,
            read_behind=behind,
        )
        assert torch.equal(out, expected[:, : 6 + stop_after])
    assert torch.equal(decode(model, steps, ids, mask, asked)[0], expected)


@pytest.mark.parametrize("kind", ["eager", "captured"])
@pytest.mark.parametrize("behind", [True, False])
def test_an_answer_can_be_continued_from_the_cache(kind: str, behind: bool) -> None:
    model, steps = model_of("llama"), runner("llama", kind)
    ids, mask = prompts((6,))
    first, _ = decode(
        model,
        steps,
        ids,
        mask,
        GenerationConfig(max_new_tokens=9),
        stop_after=4,
        read_behind=behind,
    )
    # The last token of an answer was never run.
    assert steps.tokens == first.shape[1] - 1
    ids = torch.cat([first, torch.tensor([[7, 8, 9]])], dim=1)
    mask = torch.ones_like(ids)
    asked = GenerationConfig(max_new_tokens=12)
    kept = first.shape[1] - 1
    out, _ = decode(model, steps, ids, mask, asked, keep=kept, read_behind=behind)
    assert torch.equal(out, reference(model, ids, mask, asked))
    with pytest.raises(ValueError, match="cannot be continued from"):
        decode(model, steps, ids, mask, asked, keep=400)


def test_a_cache_that_cannot_forget_is_not_continued_from() -> None:
    model, steps = model_of("qwen3_next"), runner("qwen3_next", "eager")
    ids, mask = prompts((6,))
    decode(model, steps, ids, mask, GenerationConfig(max_new_tokens=5))
    with pytest.raises(ValueError, match="cannot be continued from"):
        decode(model, steps, ids, mask, GenerationConfig(max_new_tokens=5), keep=3)


def test_a_cancel_before_the_first_token_still_gives_it() -> None:
    model, steps = model_of("llama"), runner("llama", "eager")
    ids, mask = prompts((6,))
    asked = GenerationConfig(max_new_tokens=8)
    cancel = threading.Event()
    cancel.set()
    config = effective_generation(model, asked, 8)
    out = decode_ids(
        model, steps, ids, mask, config, new_tokens=8, cancel=cancel, watch=lambda _ids: False
    )
    assert torch.equal(out, reference(model, ids, mask, asked)[:, :7])


def test_an_exception_in_the_model_leaves_the_next_request_untouched() -> None:
    model, steps = model_of("llama"), runner("llama", "captured")
    ids, mask = prompts((6,))
    asked = GenerationConfig(max_new_tokens=8)
    expected = reference(model, ids, mask, asked)

    def fail(*_args: Any) -> None:
        raise KeyboardInterrupt

    hook = model.get_submodule("model.layers.1").register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        decode(model, steps, ids, mask, asked)
    hook.remove()
    assert torch.equal(decode(model, steps, ids, mask, asked)[0], expected)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_beams", 2),
        ("num_return_sequences", 2),
        ("no_repeat_ngram_size", 3),
        ("suppress_tokens", [5]),
        ("begin_suppress_tokens", [5]),
        ("forced_bos_token_id", 5),
        ("forced_eos_token_id", 5),
        ("bad_words_ids", [[5]]),
        ("sequence_bias", [[[5], 1.0]]),
        ("typical_p", 0.5),
        ("eta_cutoff", 0.1),
        ("epsilon_cutoff", 0.1),
        ("renormalize_logits", True),
        ("remove_invalid_values", True),
        ("guidance_scale", 1.5),
        ("stop_strings", ["stop"]),
        ("max_time", 1.0),
        ("prefill_chunk_size", 4),
        ("cache_implementation", "static"),
        ("return_dict_in_generate", True),
        ("prompt_lookup_num_tokens", 3),
        ("use_cache", False),
    ],
)
def test_what_only_generate_does_is_left_to_generate(setting: str, value: object) -> None:
    model = model_of("llama")
    asked = GenerationConfig(temperature=1.0)
    config = effective_generation(model, asked, 8)
    assert can_decode(model, config, 1)
    setattr(config, setting, value)
    assert not can_decode(model, config, 1)


def test_a_model_with_a_loop_of_its_own_is_left_to_it() -> None:
    class OwnLoop(LlamaForCausalLM):  # type: ignore[misc]
        def _sample(self, *_args: Any, **_kwargs: Any) -> None:
            raise NotImplementedError

    model = OwnLoop(model_of("llama").config)
    assert not can_decode(model, effective_generation(model, GenerationConfig(), 8), 1)


@pytest.mark.parametrize("name", ["t5", "whisper"])
def test_a_model_with_an_encoder_is_left_to_generate(name: str) -> None:
    model = model_of(name)
    assert not can_decode(model, effective_generation(model, GenerationConfig(), 8), 1)
