from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ollm_widgets import GenerationConfig, LoadedRuntime, RuntimeConfig, RuntimeLoader
from ollm_widgets.kv.cache import build_cache
from ollm_widgets.kv.measuring import cache_bytes, cache_stats
from tests.kv.window.reference import expected, visible
from tests.weights.streamed_models import save_streamable

RING = "sliding-window-ring-buffer"
WINDOW = 8


def masked_reference(
    model: torch.nn.Module, ids: torch.Tensor, new_tokens: int, window: int, sinks: int = 0
) -> torch.Tensor:
    """Greedy tokens when every query sees the window and the sinks only, without any cache."""
    for _ in range(new_tokens):
        real = torch.ones_like(ids)
        logits = expected(model, ids, real, visible(real, window, sinks))
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids


def test_a_window_equals_a_reference_that_masks_what_was_dropped(runtime: LoadedRuntime) -> None:
    prompt = runtime.tokenizer(
        "One two three four five six seven eight nine ten eleven", return_tensors="pt"
    ).input_ids
    assert prompt.shape[1] > WINDOW
    for sinks in (0, 2):
        cache = build_cache(runtime.model, RING, WINDOW, sink_tokens=sinks)
        output = runtime.generate(prompt, GenerationConfig(max_new_tokens=6), kv_cache=cache)
        assert output.equal(masked_reference(runtime.model, prompt, 6, WINDOW, sinks))


def test_a_window_bounds_the_memory_of_a_long_prompt(runtime: LoadedRuntime) -> None:
    prompt = torch.full((1, 200), 5)
    bounded = build_cache(runtime.model, RING, WINDOW)
    whole = build_cache(runtime.model, "resident")
    for cache in (bounded, whole):
        runtime.generate(prompt, GenerationConfig(max_new_tokens=2), kv_cache=cache)
    assert cache_bytes(bounded) * 20 < cache_bytes(whole)
    assert cache_stats(bounded).hot_tokens == WINDOW


@pytest.mark.parametrize("rows", [1, 7, None])
def test_a_streamed_model_sees_the_same_window_whatever_the_chunks_of_its_prompts(
    saved_llama: Path, tmp_path: Path, rows: int | None
) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_streamable(saved_llama, tmp_path / "llama", 3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = torch.randint(3, 120, (1, 40), generator=torch.Generator().manual_seed(1))
    config = RuntimeConfig(
        folder,
        backend="optimized-native",
        device="cpu",
        dtype="float32",
        offload_cpu_layers=1,
        dense_projection_chunk_rows=rows,
    )
    with RuntimeLoader().load(config) as runtime:
        for window, sinks in ((1, 0), (8, 0), (8, 3)):
            cache = build_cache(runtime.model, RING, window, sink_tokens=sinks)
            found = runtime.generate(prompt, GenerationConfig(max_new_tokens=6), kv_cache=cache)
            wanted = masked_reference(model, prompt, 6, window, sinks)
            assert found[:, : wanted.shape[1]].equal(wanted[:, : found.shape[1]])
            assert found.shape[1] > prompt.shape[1]


def test_after_a_windowed_request_the_model_is_as_it_was(runtime: LoadedRuntime) -> None:
    before = runtime.model.config._attn_implementation
    prompt = torch.tensor([[5, 6, 7, 8, 9, 5, 6, 7]])
    wanted = runtime.generate(prompt, GenerationConfig(max_new_tokens=4))
    cache = build_cache(runtime.model, RING, 4)
    runtime.generate(prompt, GenerationConfig(max_new_tokens=2), kv_cache=cache)
    assert runtime.model.config._attn_implementation == before
    assert runtime.generate(prompt, GenerationConfig(max_new_tokens=4)).equal(wanted)
