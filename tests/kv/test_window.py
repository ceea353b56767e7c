from __future__ import annotations

import pytest
import torch

from ollm_widgets import GenerationConfig, KVStrategyError, LoadedRuntime
from ollm_widgets.kv.cache import build_cache, cache_bytes

WINDOW = 8


def masked_reference(model: torch.nn.Module, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Greedy tokens when every query sees the last WINDOW tokens only, without any cache."""
    for _ in range(new_tokens):
        length = ids.shape[1]
        query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
        visible = (key <= query) & (key > query - WINDOW)
        with torch.inference_mode():
            logits = model(ids, attention_mask=visible[None, None], use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids


def test_a_window_equals_a_reference_that_masks_what_was_dropped(runtime: LoadedRuntime) -> None:
    prompt = runtime.tokenizer(
        "One two three four five six seven eight nine ten eleven", return_tensors="pt"
    ).input_ids
    assert prompt.shape[1] > WINDOW
    cache = runtime.get_or_create_kv_cache(
        strategy="sliding-window-ring-buffer", window_tokens=WINDOW
    )
    output = runtime.generate(prompt, GenerationConfig(max_new_tokens=12), kv_cache=cache)
    assert torch.equal(output, masked_reference(runtime.model, prompt, 12))
    runtime.reset_kv_cache_instances()


def test_a_window_bounds_the_memory_of_a_long_prompt(runtime: LoadedRuntime) -> None:
    prompt = torch.full((1, 200), 5)
    bounded = build_cache(runtime.model, "sliding-window-ring-buffer", WINDOW)
    whole = build_cache(runtime.model, "resident")
    for cache in (bounded, whole):
        runtime.generate(prompt, GenerationConfig(max_new_tokens=2), kv_cache=cache)
    assert cache_bytes(bounded) * 20 < cache_bytes(whole)


def test_after_a_windowed_request_the_model_is_as_it_was(runtime: LoadedRuntime) -> None:
    before = runtime.model.config._attn_implementation
    cache = build_cache(runtime.model, "sliding-window-ring-buffer", WINDOW)
    runtime.generate(torch.tensor([[5, 6, 7]]), GenerationConfig(max_new_tokens=2), kv_cache=cache)
    assert runtime.model.config._attn_implementation == before


def test_a_model_with_sliding_layers_of_its_own_refuses_a_uniform_window() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    with pytest.raises(KVStrategyError, match="sliding_attention"):
        build_cache(Gemma2ForCausalLM(config), "sliding-window-ring-buffer", WINDOW)


def test_a_strategy_without_a_cache_is_refused_by_name(runtime: LoadedRuntime) -> None:
    with pytest.raises(KVStrategyError, match="'paged'"):
        build_cache(runtime.model, "paged")
