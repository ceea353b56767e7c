from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.weights.model.structure import DecoderStructure, ExpertGroup, decoder_structure
from tests.models.architectures import ARCHITECTURES, EXPERTS, GROUPED, HEADED, Architecture

ONE_STACK = [one for one in ARCHITECTURES if "seq2seq" not in one.kind]
ENCODER_DECODERS = [one for one in ARCHITECTURES if "seq2seq" in one.kind]

# Of architectures beyond the list: settings, class, list, feed-forward parts, experts.
MORE: list[tuple[str, dict[str, Any], str, str, str | None, str | None]] = [
    ("cohere", GROUPED, "CohereForCausalLM", "model.layers", "mlp", None),
    ("starcoder2", GROUPED, "Starcoder2ForCausalLM", "model.layers", "mlp", None),
    ("glm4", {**HEADED, "pad_token_id": 0}, "Glm4ForCausalLM", "model.layers", "mlp", None),
    (
        "olmoe",
        {**GROUPED, **EXPERTS},
        "OlmoeForCausalLM",
        "model.layers",
        "mlp",
        "mlp.experts",
    ),
    (
        "granitemoehybrid",
        {
            **GROUPED,
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 16,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
        },
        "GraniteMoeHybridForCausalLM",
        "model.layers",
        "block_sparse_moe",
        "block_sparse_moe.experts",
    ),
    (
        "jamba",
        {
            **GROUPED,
            "num_experts": 4,
            "expert_layer_offset": 0,
            "expert_layer_period": 1,
            "attn_layer_offset": 1,
            "attn_layer_period": 2,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "pad_token_id": 0,
        },
        "JambaForCausalLM",
        "model.layers",
        "feed_forward",
        "feed_forward.experts",
    ),
    (
        "bamba",
        {
            **GROUPED,
            "attn_layer_indices": [1],
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "pad_token_id": 0,
        },
        "BambaForCausalLM",
        "model.layers",
        "feed_forward",
        None,
    ),
    (
        "llama4_text",
        {**HEADED, "num_local_experts": 4, "interleave_moe_layer_step": 1, "pad_token_id": 0},
        "Llama4ForCausalLM",
        "model.layers",
        "feed_forward",
        None,  # its experts all see every token: there is nothing to choose before they run
    ),
    (
        "gemma3n_text",
        {
            **HEADED,
            "intermediate_size": 48,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 64,
            "laurel_rank": 4,
            "activation_sparsity_pattern": None,
            "altup_num_inputs": 3,  # two projections in a list beside two layers
        },
        "Gemma3nForCausalLM",
        "model.layers",
        "mlp",
        None,
    ),
    (
        "gemma4_text",
        {
            **HEADED,
            "global_head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 64,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 16,
        },
        "Gemma4ForCausalLM",
        "model.layers",
        "mlp",
        "experts",
    ),
    (
        "dbrx",
        {
            "vocab_size": 64,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 128,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "hidden_size": 32},
        },
        "DbrxForCausalLM",
        "transformer.blocks",
        "ffn",
        None,  # its experts are stacked in one matrix, not one a row
    ),
    (
        "opt",
        {**GROUPED, "ffn_dim": 48, "word_embed_proj_dim": 32},
        "OPTForCausalLM",
        "model.decoder.layers",
        None,  # two projections of the layer itself
        None,
    ),
    (
        "bloom",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "BloomForCausalLM",
        "transformer.h",
        None,  # takes the residual too
        None,
    ),
    ("gpt_neox", GROUPED, "GPTNeoXForCausalLM", "gpt_neox.layers", "mlp", None),
]


def on_meta(model_type: str, settings: dict[str, Any], model_class: str) -> Any:
    config = AutoConfig.for_model(model_type, **settings)
    with torch.device("meta"):
        return getattr(transformers, model_class)(config)


@cache
def structure_of(model_type: str) -> tuple[Any, DecoderStructure]:
    architecture = next(one for one in ONE_STACK if one.model_type == model_type)
    model = on_meta(model_type, architecture.settings, architecture.model_class)
    return model, decoder_structure(model)


@pytest.mark.parametrize("architecture", ONE_STACK, ids=str)
def test_the_layers_of_every_single_stack_are_found_without_weights(
    architecture: Architecture,
) -> None:
    model, structure = structure_of(architecture.model_type)

    assert len(structure.layers) == architecture.layers
    assert list(model.get_submodule(structure.path)) == list(structure.layers)
    assert all(parameter.is_meta for layer in structure.layers for parameter in layer.parameters())
    assert not any(word in structure.path for word in ("vision", "visual", "audio", "tower"))


@pytest.mark.parametrize("architecture", ONE_STACK, ids=str)
def test_experts_are_found_where_there_are_any(architecture: Architecture) -> None:
    _, structure = structure_of(architecture.model_type)
    experts, _ = architecture.experts

    group = structure.expert_groups[-1]

    assert (None if group is None else group.experts) == experts
    if group is not None:
        module = structure.layers[-1].get_submodule(group.path)
        assert {p.shape[0] for p in module.parameters()} == {experts}
        assert {name for name, _ in module.named_parameters()} == set(group.parameters)


@pytest.mark.parametrize("architecture", ONE_STACK, ids=str)
def test_the_feed_forward_part_is_found_in_every_layer_that_has_one(
    architecture: Architecture,
) -> None:
    _, structure = structure_of(architecture.model_type)

    expected = None if architecture.model_type == "mamba2" else "mlp"

    assert set(structure.mlp_paths) == {expected}


@pytest.mark.parametrize("architecture", ENCODER_DECODERS, ids=str)
def test_an_encoder_decoder_is_refused_with_the_reason(architecture: Architecture) -> None:
    model = on_meta(architecture.model_type, architecture.settings, architecture.model_class)

    with pytest.raises(SpecializationLoadError, match="encoder-decoder"):
        decoder_structure(model)


@pytest.mark.parametrize(
    ("model_type", "settings", "model_class", "path", "mlp", "experts"),
    MORE,
    ids=[one[0] for one in MORE],
)
def test_structure_decides_where_names_differ(
    model_type: str,
    settings: dict[str, Any],
    model_class: str,
    path: str,
    mlp: str | None,
    experts: str | None,
) -> None:
    structure = decoder_structure(on_meta(model_type, settings, model_class))

    assert structure.path == path
    assert structure.mlp_paths[-1] == mlp
    group = structure.expert_groups[-1]
    assert (None if group is None else group.path) == experts


def test_biases_of_stacked_experts_belong_to_the_group() -> None:
    _, structure = structure_of("gpt_oss")

    stacked = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
    assert structure.expert_groups[0] == ExpertGroup("mlp.experts", 4, stacked)


def test_a_dense_layer_beside_expert_layers_has_no_group() -> None:
    _, structure = structure_of("deepseek_v3")

    assert structure.expert_groups[0] is None
    assert structure.expert_groups[1] is not None


def test_layers_that_share_weights_are_refused() -> None:
    model = on_meta("llama", HEADED, "LlamaForCausalLM")
    model.model.layers[1].mlp = model.model.layers[0].mlp

    with pytest.raises(SpecializationLoadError, match=r"0 and 1 of model\.layers share weights"):
        decoder_structure(model)


def test_a_model_without_a_list_of_layers_is_refused_with_their_number() -> None:
    model = on_meta("llama", HEADED, "LlamaForCausalLM")
    model.model.layers = nn.Sequential(*model.model.layers)

    with pytest.raises(SpecializationLoadError, match=r"No module list .* 2 decoder layers"):
        decoder_structure(model)


def test_two_lists_that_fit_are_named() -> None:
    model = on_meta("llama", HEADED, "LlamaForCausalLM")
    model.model.others = nn.ModuleList(model.model.layers)

    with pytest.raises(SpecializationLoadError, match=r"model\.layers, model\.others"):
        decoder_structure(model)


def test_a_module_that_is_no_transformers_model_is_refused() -> None:
    with pytest.raises(SpecializationLoadError, match="no config"):
        decoder_structure(nn.Linear(2, 2))
