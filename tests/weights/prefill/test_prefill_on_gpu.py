"""The kernels that chunks of a long prompt reach on an accelerator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, DynamicCache, StaticCache

from ollm_widgets.weights.model.structure import decoder_structure
from ollm_widgets.weights.prefill.causal_rows import CausalRows
from ollm_widgets.weights.prefill.chunked import ChunkedPrefill
from ollm_widgets.weights.prefill.two_parts import attend_in_two_parts, suits_two_parts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GPU = torch.device("cuda", 0)
WIDE = {
    "vocab_size": 512,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "columns", "visible"), [(64, 300, 300), (64, 512, 300)])
def test_the_kernel_aligns_the_chunk_at_the_lower_right(
    rows: int, columns: int, visible: int, dtype: torch.dtype, groups: int
) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 8, rows, 64, device=GPU, dtype=dtype)
    key, value = torch.randn(2, 2, 8 // groups, columns, 64, device=GPU, dtype=dtype)
    mask = CausalRows.of(rows, columns, visible, GPU)

    found = scaled_dot_product_attention(query, key, value, attn_mask=mask)

    states = [one.repeat_interleave(groups, 1).float() for one in (key, value)]
    with sdpa_kernel(SDPBackend.MATH):
        expected = scaled_dot_product_attention(query.float(), *states, attn_mask=mask.built())
    noise = 2e-2 if dtype == torch.bfloat16 else 1e-4
    assert torch.allclose(found.float(), expected, atol=noise)


def test_half_precision_attends_by_group_without_copies_or_masks() -> None:
    rows, visible = 1024, 32 * 1024
    query = torch.randn(1, 32, rows, 128, device=GPU, dtype=torch.bfloat16)
    key, value = torch.randn(2, 1, 8, visible, 128, device=GPU, dtype=torch.bfloat16)
    mask = CausalRows.of(rows, visible, visible, GPU)
    scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()

    scaled_dot_product_attention(query, key, value, attn_mask=mask)

    # The output, what it is transposed from, and the log-sum-exp; not 4 x the keys, nor a mask.
    assert torch.cuda.max_memory_allocated() - before < 4 * query.numel() * 2


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("visible", [2048, 4999])
@torch.inference_mode()
def test_earlier_keys_and_a_chunks_own_are_attended_to_apart_and_joined(
    visible: int, groups: int
) -> None:
    torch.manual_seed(0)
    rows = 700
    query = torch.randn(1, 16, rows, 128, device=GPU, dtype=torch.bfloat16)
    key, value = torch.randn(2, 1, 16 // groups, visible, 128, device=GPU, dtype=torch.bfloat16)
    if not suits_two_parts(query, key, value, 0.0):
        pytest.skip("cuDNN's attention is not ahead on this GPU.")

    found = attend_in_two_parts(query, key, value, 0.1)

    mask = CausalRows.of(rows, visible, visible, GPU).built()
    states = [one.repeat_interleave(groups, 1).float() for one in (key, value)]
    with sdpa_kernel(SDPBackend.MATH):
        expected = scaled_dot_product_attention(query.float(), *states, attn_mask=mask, scale=0.1)
    assert torch.allclose(found.float(), expected, atol=2e-2)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    ("model_type", "extra", "model_class"),
    [
        ("llama", {}, "LlamaForCausalLM"),
        ("mistral", {"sliding_window": 256}, "MistralForCausalLM"),
        ("qwen3", {}, "Qwen3ForCausalLM"),
    ],
)
@torch.inference_mode()
def test_a_long_prompt_gives_the_same_in_chunks(
    model_type: str, extra: dict[str, Any], model_class: str, static: bool
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **WIDE, **extra)
    model = getattr(transformers, model_class)(config).to(GPU, torch.bfloat16).eval()
    exact = getattr(transformers, model_class)(config).to(GPU).eval()
    exact.load_state_dict(model.state_dict())
    structure = decoder_structure(model)
    ids = torch.randint(3, 500, (2, 1500), device=GPU)
    mask = torch.ones_like(ids)

    def logits(of: Any) -> torch.Tensor:
        past = StaticCache(config, max_cache_len=2048) if static else DynamicCache(config=config)
        found: torch.Tensor = of(ids, attention_mask=mask, past_key_values=past).logits
        return found.float()

    expected, whole = logits(exact), logits(model)
    with ChunkedPrefill(structure, model, 256) as prefill:
        chunked = logits(model)
        assert prefill.whole_layers == {}

    assert (chunked - expected).abs().max() <= 1.5 * (whole - expected).abs().max()


@torch.inference_mode()
def test_memory_of_a_prompt_is_bounded_by_the_chunk() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **{**WIDE, "max_position_embeddings": 65536})
    model = transformers.LlamaForCausalLM(config).to(GPU, torch.bfloat16).eval()
    structure = decoder_structure(model)
    ids = torch.randint(3, 500, (1, 32768), device=GPU)

    def peak(rows: int | None) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        past = DynamicCache(config=config)
        with ChunkedPrefill(structure, model, rows, in_place=True):
            model(ids, past_key_values=past, logits_to_keep=1)
        kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in past.layers)
        return torch.cuda.max_memory_allocated() - before - kept

    peak(1024)
    hidden = ids.numel() * config.hidden_size * 2
    keys_of_a_layer = 2 * ids.numel() * 2 * 64 * 2
    # Input and output, one layer's keys while they grow, the rotary tables, and what a chunk takes.
    bounded = 3 * hidden + 2 * keys_of_a_layer + 64 * 2**20
    assert peak(1024) < bounded < peak(None)
