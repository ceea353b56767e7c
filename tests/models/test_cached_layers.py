"""What layers keep of a sequence, against caches that transformers fills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollm_widgets.models.dimensions import shape_from_config
from ollm_widgets.planning.memory import kv_layer_bytes

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 2}
GATED_DELTA = {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}
LATENT = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_5_text": GATED_DELTA,
    "jamba": {
        "num_experts": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**MAMBA, "head_dim": 8, "mamba_d_ssm": 64},
    "granitemoehybrid": {
        **MAMBA,
        "layer_types": ["mamba", "attention", "mamba", "mamba"],
        "num_local_experts": 0,
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "gemma3n_text": {
        "head_dim": 8,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 64,
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "sliding_window": 16,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "activation_sparsity_pattern": None,
    },
    "deepseek_v2": LATENT,
    "glm4_moe_lite": LATENT,
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", CONFIGS)
def test_each_layer_keeps_what_the_config_says(model_type: str, dtype: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **SMALL | CONFIGS[model_type])
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).eval()
    with torch.inference_mode():
        cache = model(input_ids=torch.arange(3, 43)[None], use_cache=True).past_key_values
        model(input_ids=torch.tensor([[5]]), past_key_values=cache, use_cache=True)
    config.save_pretrained(tmp_path)
    shape = shape_from_config(json.loads((tmp_path / "config.json").read_text()))
    assert shape is not None
    held = tuple(map(_held_bytes, cache.layers))
    # Of layers that use another's keys and values some versions make no cache.
    without_cache = (0,) * (shape.layers - len(held))
    assert kv_layer_bytes(shape, dtype, 41) == held + without_cache


def _held_bytes(layer: Any) -> int:
    states = [getattr(layer, "keys", None), getattr(layer, "values", None)]
    for name in ("conv_states", "recurrent_states"):
        states += getattr(layer, name, {}).values()
    return sum(each.untyped_storage().nbytes() for each in states if each is not None)
