"""Models over a paged cache give the tokens that transformers gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ollm_widgets.kv.attention.attending import attending, why_not
from ollm_widgets.kv.attention.paged_cache import PagedCache
from ollm_widgets.kv.attention.room import KVTiers, page_shape
from ollm_widgets.kv.budget import KVBudget
from ollm_widgets.weights.steps.capture import CapturedSteps
from ollm_widgets.weights.steps.eager import EagerSteps
from ollm_widgets.weights.steps.fixed_cache import FixedCache, fixed_cache
from ollm_widgets.weights.steps.waiting import CannotCapture
from tests.models.architectures import ARCHITECTURES, build

CPU = torch.device("cpu")
PAGE, CAPACITY = 8, 128
BY_NAME = {architecture.model_type: architecture for architecture in ARCHITECTURES}
FITTING = ("llama", "qwen3", "qwen3_moe", "phi3", "gpt2", "voxtral")
# Their attention is not asked for by name, or reads something else than what the cache holds.
UNFIT = ("deepseek_v3", "falcon")


def model_of(name: str) -> PreTrainedModel:
    return build(BY_NAME[name]).float().eval()


def tiers(model: PreTrainedModel, batch: int, codec: str = "full") -> KVTiers:
    """Six pages of each layer stay hot."""
    page = page_shape(model.config, batch, torch.float32, PAGE)
    assert page is not None
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    return KVTiers(KVBudget((CAPACITY // PAGE + 6 * layers) * page.raw_bytes), codec, PAGE)


def prompts(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 64, (len(lengths), max(lengths)), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : max(lengths) - length] = 0
    return ids.masked_fill(mask == 0, 0), mask


def greedy(
    steps: EagerSteps, ids: torch.Tensor, mask: torch.Tensor, new: int, **begin: Any
) -> list[list[int]]:
    steps.begin(ids.shape[0], ids.shape[1] + new, padded=not bool(mask.all()), **begin)
    steps.prefill(ids, mask)
    tokens = [steps.chosen.flatten().tolist()]
    for _ in range(new - 1):
        steps.step()
        tokens.append(steps.chosen.flatten().tolist())
    return tokens


def expected(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, new: int
) -> list[list[int]]:
    out = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=new, eos_token_id=None
    )
    tokens: list[list[int]] = out[:, ids.shape[1] :].T.tolist()
    return tokens


@pytest.mark.parametrize("lengths", [(40,), (70, 33)], ids=["one", "padded"])
@pytest.mark.parametrize("name", FITTING)
def test_steps_over_cold_pages_choose_the_tokens_of_generate(
    name: str, lengths: tuple[int, ...]
) -> None:
    model = model_of(name)
    ids, mask = prompts(lengths)
    steps = EagerSteps(model, CPU, tiers=tiers(model, len(lengths)))
    assert greedy(steps, ids, mask, 40) == expected(model, ids, mask, 40)
    assert isinstance(steps.cache, PagedCache)
    assert steps.cache.clock.ticking
    assert steps.cache.cold_pages > 0
    # The model is as it was.
    assert model.config._attn_implementation == "sdpa"
    steps.close()


@pytest.mark.parametrize("name", UNFIT)
def test_models_whose_attention_is_their_own_gather_their_pages_instead(name: str) -> None:
    model = model_of(name)
    ids, mask = prompts((40,))
    steps = EagerSteps(model, CPU, tiers=tiers(model, 1))
    assert greedy(steps, ids, mask, 20) == expected(model, ids, mask, 20)
    assert isinstance(steps.cache, PagedCache)
    assert not steps.cache.clock.ticking
    assert steps.refuses(1, 60)


def test_a_conversation_goes_on_from_what_is_cold() -> None:
    model = model_of("llama")
    ids, mask = prompts((110,))
    steps = EagerSteps(model, CPU, tiers=tiers(model, 1))
    assert greedy(steps, ids[:, :60], mask[:, :60], 9) == expected(
        model, ids[:, :60], mask[:, :60], 9
    )
    for keep in (50, 17):
        other = torch.cat((ids[:, :keep], ids[:, keep : keep + 30].flip(-1)), dim=1)
        ones = torch.ones_like(other)
        steps.begin(1, other.shape[1] + 9, keep=keep)
        steps.prefill(other, ones)
        tokens = [steps.chosen.flatten().tolist()]
        for _ in range(8):
            steps.step()
            tokens.append(steps.chosen.flatten().tolist())
        assert tokens == expected(model, other, ones, 9)
        ids = torch.cat((other, ids[:, other.shape[1] :]), dim=1)


def test_captured_steps_without_cuda_say_why_and_are_right() -> None:
    model = model_of("llama")
    ids, mask = prompts((40,))
    steps = CapturedSteps(model, CPU, tiers=tiers(model, 1))
    assert steps.refuses(1, 60) == (
        "pages in host memory are read in place by Triton on CUDA devices only"
    )
    assert greedy(steps, ids, mask, 30) == expected(model, ids, mask, 30)
    assert steps.refusal == "no kernel reads pages: its kernels need Triton and CUDA"
    steps.close()


def ticking_cache(model: PreTrainedModel) -> FixedCache:
    cache = fixed_cache(model.config, 32, CPU)
    assert isinstance(cache, FixedCache)
    cache.tick(0)
    return cache


def test_a_plain_cache_is_served_under_a_mask_where_no_kernel_runs() -> None:
    model = model_of("llama")
    cache = ticking_cache(model)
    ids = torch.tensor([[5, 9, 7]])
    with torch.inference_mode(), attending(model, cache) as active:
        for token in ids.T:
            out = model(token[None], past_key_values=cache, use_cache=True).logits[:, -1]
            cache.clock.position.add_(1)
        active.check()
    assert torch.allclose(out, model(ids).logits[:, -1], atol=1e-5)


def test_a_layer_that_did_not_ask_is_noticed() -> None:
    model = model_of("llama")
    cache = ticking_cache(model)
    states = torch.zeros(1, 2, 1, 8)
    with attending(model, cache) as active:
        cache.update(states, states, 1)
        with pytest.raises(CannotCapture, match="cannot be replaced by name"):
            active.check()


def test_only_attention_by_sdpa_is_replaced() -> None:
    model = model_of("llama")
    assert why_not(model) == ""
    model.config._attn_implementation = "eager"
    assert why_not(model) == "its attention is eager, not sdpa"


def test_parts_of_a_config_keep_their_attention() -> None:
    model = model_of("voxtral")
    model.config.audio_config._attn_implementation = "eager"
    text = model.config.get_text_config(decoder=True)
    cache = ticking_cache(model)
    with attending(model, cache):
        assert text._attn_implementation == "ollm_pages"
        assert model.config.audio_config._attn_implementation == "eager"
    assert text._attn_implementation == "sdpa"
    assert model.config.audio_config._attn_implementation == "eager"
