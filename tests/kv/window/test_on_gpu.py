"""The kernels and the memory of a window on an accelerator."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ollm_widgets.kv.window import window_cache
from tests.kv.window.reference import assert_same, expected, feed, visible

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda", 0)
TOKENS = 300


@cache
def wide(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=40_000,
    )
    return LlamaForCausalLM(config).to(GPU, dtype).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("window", "sinks"), [(1, 2), (33, 0), (64, 4)])
def test_a_window_equals_a_mask_that_hides_what_was_dropped(
    window: int, sinks: int, batch: int, attention: str
) -> None:
    model = wide(torch.float32)
    ids = torch.randint(3, 500, (batch, TOKENS), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(ids)
    real[1:2, :70] = 0
    ids, real = ids.to(GPU), real.to(GPU)
    wanted = expected(model, ids, real, visible(real, window, sinks).to(GPU))
    model.set_attn_implementation(attention)
    for chunks in ([TOKENS], [100, *[1] * 80, 7, 200]):
        found = feed(model, window_cache(model, window, sinks), ids, real, chunks)
        assert_same(found, wanted, real)
    model.set_attn_implementation("sdpa")


def test_bfloat16_stays_within_its_noise() -> None:
    model = wide(torch.bfloat16)
    ids = torch.randint(3, 500, (1, TOKENS), generator=torch.Generator().manual_seed(1)).to(GPU)
    real = torch.ones_like(ids)
    wanted = expected(model, ids, real, visible(real, 64, 4).to(GPU))
    for chunks in ([TOKENS], [100, *[1] * 80, 7, 200]):
        found = feed(model, window_cache(model, 64, 4), ids, real, chunks)
        assert (found - wanted).abs().max() <= 0.05 * wanted.abs().max()


@torch.inference_mode()
def test_a_long_prompt_and_its_answer_take_the_memory_of_the_window() -> None:
    model = wide(torch.bfloat16)
    tokens = 32_768
    ids = torch.randint(3, 500, (1, tokens), generator=torch.Generator().manual_seed(1)).to(GPU)
    past = window_cache(model, 256, 4)
    before = torch.cuda.memory_allocated(GPU)
    torch.cuda.reset_peak_memory_stats(GPU)
    model(ids, past_key_values=past, logits_to_keep=1)
    # A mask of 32,768 by 32,768 alone takes 1 GiB.
    assert torch.cuda.max_memory_allocated(GPU) - before < 700 * 2**20
    model(ids[:, :1], past_key_values=past)
    held = torch.cuda.memory_allocated(GPU)
    assert past.stats().accelerator_bytes == 3 * 2 * 2 * (256 + 4) * 64 * 2
    for _ in range(20):
        model(ids[:, :1], past_key_values=past)
        assert torch.cuda.memory_allocated(GPU) == held
