from __future__ import annotations

import pytest

from ollm_widgets.models.inventory import sum_headers
from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.tensors import TensorHeader

# A name in a checkpoint, and whether the tensor belongs to experts of which a token uses a few.
NAMES = (
    ("model.layers.0.mlp.experts.7.gate_proj.weight", True),
    ("model.layers.0.mlp.experts.gate_up_proj", True),
    ("model.layers.0.mlp.experts.down_proj_bias", True),
    ("model.language_model.layers.0.mlp.experts.down_proj", True),
    ("model.layers.0.block_sparse_moe.experts.0.w1.weight", True),
    ("model.layers.0.block_sparse_moe.input_linear.weight", True),
    ("model.layers.0.feed_forward.experts.0.w2.weight", True),
    ("model.layers.0.experts.gate_up_proj", True),
    ("backbone.layers.0.mixer.experts.3.up_proj.weight", True),
    ("transformer.blocks.0.ffn.experts.mlp.w1", True),
    ("blk.0.ffn_gate_exps.weight", True),
    ("blk.0.ffn_down_exps.bias", True),
    ("blk.0.ffn_up.3.weight", True),
    ("model.layers.0.mlp.shared_experts.gate_proj.weight", False),
    ("model.layers.0.mlp.shared_expert.gate_proj.weight", False),
    ("model.layers.0.mlp.gate.e_score_correction_bias", False),
    ("model.layers.0.mlp.experts.e_score_correction_bias", False),
    ("model.layers.0.mlp.expert_bias", False),
    ("model.layers.0.mlp.router.weight", False),
    ("model.layers.0.mlp.gate_proj.weight", False),
    ("model.layers.0.shared_mlp.input_linear.weight", False),
    ("model.layers.0.router.per_expert_scale", False),
    ("blk.0.ffn_gate.weight", False),
    ("blk.0.ffn_gate_inp.weight", False),
    ("blk.0.ffn_down_shexp.weight", False),
)


@pytest.mark.parametrize(("name", "in_experts"), NAMES)
def test_experts_are_told_by_the_names_of_their_tensors(name: str, in_experts: bool) -> None:
    summed = sum_headers([TensorHeader(name, "bfloat16", (6,), 6, 12)], ("model.safetensors",))
    assert summed.layer_parameters == (6,)
    assert summed.expert_parameters == (6 if in_experts else 0,)
    assert summed.expert_bytes == (12 if in_experts else 0,)


def test_experts_are_counted_by_layer_and_only_in_the_decoder() -> None:
    names = (
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.mlp.experts.0.down_proj.weight",
        "model.layers.1.mlp.experts.1.down_proj.weight",
        "model.layers.2.mlp.experts.0.down_proj.weight",
        "model.visual.layers.0.mlp.experts.0.down_proj.weight",
    )
    headers = [TensorHeader(name, "bfloat16", (6,), 6, 12) for name in names]
    summed = sum_headers(headers, ("model.safetensors",), layers=2)
    assert summed.layer_parameters == (6, 12)
    assert summed.expert_parameters == (0, 12)
    assert summed.expert_bytes == (0, 24)
    assert summed.other_parameters == 12


def test_quantized_experts_count_the_weights_they_stand_for() -> None:
    prefix = "model.layers.0.mlp.experts.down_proj"
    headers = [
        TensorHeader(f"{prefix}_blocks", "uint8", (2, 4, 16), 128, 128),
        TensorHeader(f"{prefix}_scales", "uint8", (2, 4), 8, 8),
        TensorHeader(f"{prefix}_bias", "bfloat16", (2, 4), 8, 16),
    ]
    summed = sum_headers(headers, ("model.safetensors",), Quantization("mxfp4"))
    assert summed.expert_parameters == (256 + 8,)
    assert summed.expert_bytes == (128 + 8 + 16,)
