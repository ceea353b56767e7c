"""Tiny checkpoints of many architectures, made on the spot by transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

GROUPED = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
HEADED = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
SPEECH = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a tiny model of an architecture is made, and what must be found in its files."""

    model_type: str
    settings: dict[str, object]
    model_class: str
    kind: str = "causal-lm"
    modalities: tuple[str, ...] = ("text",)
    layers: int = 2
    context: int | None = 128
    experts: tuple[int | None, int | None] = (None, None)
    cached_width: int = 16
    layer_types: tuple[str, ...] | None = None
    sliding_window: int | None = None
    tied: bool = False

    def __str__(self) -> str:
        return self.model_type


SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
ARCHITECTURES = (
    Architecture("llama", HEADED, "LlamaForCausalLM"),
    Architecture(
        "mistral", {**HEADED, "sliding_window": 16}, "MistralForCausalLM", sliding_window=16
    ),
    Architecture("qwen2", GROUPED, "Qwen2ForCausalLM", layer_types=(FULL, FULL)),
    Architecture("qwen3", HEADED, "Qwen3ForCausalLM", layer_types=(FULL, FULL)),
    Architecture("qwen3_moe", {**HEADED, **EXPERTS}, "Qwen3MoeForCausalLM", experts=(4, 2)),
    Architecture(
        "qwen3_next",
        {
            **HEADED,
            **EXPERTS,
            "num_hidden_layers": 4,
            "shared_expert_intermediate_size": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        "Qwen3NextForCausalLM",
        layers=4,
        experts=(4, 2),
        layer_types=(LINEAR, LINEAR, LINEAR, FULL),
    ),
    Architecture(
        "mixtral",
        {**HEADED, "num_local_experts": 4, "num_experts_per_tok": 2},
        "MixtralForCausalLM",
        experts=(4, 2),
    ),
    Architecture(
        "gemma2",
        {**HEADED, "sliding_window": 16},
        "Gemma2ForCausalLM",
        layer_types=(SLIDING, FULL),
        sliding_window=16,
        tied=True,
    ),
    Architecture(
        "gemma3_text",
        {**HEADED, "sliding_window": 16},
        "Gemma3ForCausalLM",
        layer_types=(SLIDING, SLIDING),
        sliding_window=16,
        tied=True,
    ),
    Architecture(
        "gemma3",
        {
            "text_config": {**HEADED, "sliding_window": 16},
            "vision_config": {**TOWER, "image_size": 28, "patch_size": 14},
            "mm_tokens_per_image": 4,
        },
        "Gemma3ForConditionalGeneration",
        kind="image-text-to-text",
        modalities=("text", "image"),
        layer_types=(SLIDING, SLIDING),
        sliding_window=16,
        tied=True,
    ),
    Architecture(
        "qwen2_vl",
        {
            "text_config": {
                **GROUPED,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
            },
            "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4},
        },
        "Qwen2VLForConditionalGeneration",
        kind="image-text-to-text",
        modalities=("text", "image"),
        layer_types=(FULL, FULL),
    ),
    Architecture("phi", GROUPED, "PhiForCausalLM"),
    Architecture("phi3", {**GROUPED, "pad_token_id": 0}, "Phi3ForCausalLM"),
    Architecture(
        "gpt2",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
        "GPT2LMHeadModel",
        cached_width=32,
        tied=True,
    ),
    Architecture(
        "gpt_oss",
        {**HEADED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
        "GptOssForCausalLM",
        experts=(4, 2),
        layer_types=(SLIDING, FULL),
        sliding_window=16,
    ),
    Architecture(
        "t5",
        {"vocab_size": 64, "d_model": 32, "d_kv": 4, "d_ff": 48, "num_layers": 1, "num_heads": 4}
        | {"num_decoder_layers": 2},
        "T5ForConditionalGeneration",
        kind="seq2seq-lm",
        context=None,
        tied=True,
    ),
    Architecture(
        "bart",
        {**SPEECH, "max_position_embeddings": 128},
        "BartForConditionalGeneration",
        kind="seq2seq-lm",
        cached_width=32,
        tied=True,
    ),
    Architecture("olmo2", GROUPED, "Olmo2ForCausalLM"),
    Architecture("granite", GROUPED, "GraniteForCausalLM"),
    Architecture(
        "deepseek_v3",
        {
            **GROUPED,
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
        },
        "DeepseekV3ForCausalLM",
        experts=(4, 2),
        cached_width=6,
    ),
    Architecture(
        "falcon",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        },
        "FalconForCausalLM",
        cached_width=8,
        tied=True,
    ),
    Architecture(
        "mamba2",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8}
        | {"head_dim": 8, "state_size": 8, "n_groups": 1},
        "Mamba2ForCausalLM",
        context=None,
        cached_width=64,
        layer_types=(LINEAR, LINEAR),
    ),
    Architecture(
        "whisper",
        {**SPEECH, "max_source_positions": 64, "max_target_positions": 128, "num_mel_bins": 8},
        "WhisperForConditionalGeneration",
        kind="speech-seq2seq",
        modalities=("text", "audio"),
        cached_width=32,
        tied=True,
    ),
    Architecture(
        "voxtral",
        {
            "text_config": {**HEADED, "model_type": "llama"},
            "audio_config": {**TOWER, "num_mel_bins": 8, "max_source_positions": 64},
        },
        "VoxtralForConditionalGeneration",
        kind="audio-text-to-text",
        modalities=("text", "audio"),
    ),
)


def build(architecture: Architecture) -> PreTrainedModel:
    """A model with random bfloat16 weights."""
    import torch
    import transformers
    from transformers import AutoConfig

    torch.manual_seed(0)
    config: PretrainedConfig = AutoConfig.for_model(
        architecture.model_type, **architecture.settings
    )
    build: Callable[..., PreTrainedModel] = getattr(transformers, architecture.model_class)
    model: PreTrainedModel = build(config).to(torch.bfloat16)
    return model


def save(architecture: Architecture, tokenizer: Path, folder: Path) -> int:
    """Save a tiny checkpoint with the tokenizer of another; returns its parameters."""
    from transformers import WhisperFeatureExtractor

    model = build(architecture)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder)
    if "image" in architecture.modalities:
        # The image processors themselves want Pillow and torchvision.
        settings = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 28}}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if "audio" in architecture.modalities:
        WhisperFeatureExtractor().save_pretrained(folder)
    parameters = {id(p): p.numel() for p in model.parameters()}
    buffers = sum(
        value.numel()
        for name, value in model.state_dict().items()
        if not any(name == own for own, _ in model.named_parameters(remove_duplicate=False))
    )
    return sum(parameters.values()) + buffers
