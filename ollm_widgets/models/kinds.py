"""Which transformers auto class a config asks for, judged without importing transformers."""

from __future__ import annotations

from ollm_widgets.models.capabilities import Modality
from ollm_widgets.models.catalog import GenericModelKind
from ollm_widgets.models.config_file import JSONObject, read_int, read_text, text_config

# Kinds whose decoder, and what is around it, optimized-native loads.
NATIVE_KINDS: frozenset[GenericModelKind] = frozenset({"causal-lm", "image-text-to-text"})

_VISION_KEYS = ("vision_config", "vision_tower", "vision_model", "mm_vision_tower")
_AUDIO_KEYS = ("audio_config", "audio_encoder_config", "speech_config")
_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
_IMAGE_SUFFIXES = ("ForVision2Seq", "ForImageTextToText")
_GENERATING_SUFFIXES = (*_CAUSAL_SUFFIXES, *_IMAGE_SUFFIXES, "ForConditionalGeneration")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE_EXPERTS = (
    "num_experts_per_tok",
    "experts_per_token",
    "num_experts_per_token",
    "moe_top_k",
    "moe_topk",
    "moe_k",
    "top_k_experts",
)
_SPEECH_TYPES = ("whisper", "speech_to_text", "moonshine", "speech-encoder-decoder")
_CAUSAL_TYPES = frozenset((
    "cohere", "cohere2", "falcon", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2",
    "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "llama",
    "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "smollm3", "stablelm",
    "starcoder2"
))  # fmt: skip


def architecture_of(config: JSONObject) -> str | None:
    """First class name in ``architectures``."""
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        return names[0]
    return None


def modalities_of(config: JSONObject) -> tuple[Modality, ...]:
    """Kinds of input, from the sub-configs that are present."""
    inner = config.get("thinker_config")
    configs = [config, inner] if isinstance(inner, dict) else [config]
    modalities: list[Modality] = ["text"]
    if any(part.get(key) for part in configs for key in _VISION_KEYS):
        modalities.append("image")
    speech = read_text(config, "model_type") in _SPEECH_TYPES
    if speech or any(part.get(key) for part in configs for key in _AUDIO_KEYS):
        modalities.append("audio")
    return tuple(modalities)


def generic_kind_of(config: JSONObject) -> GenericModelKind | None:
    """Auto class that loads the model, or ``None`` when it generates no text.

    Follows the naming of transformers: ``...ForCausalLM`` and ``...LMHeadModel`` are causal
    models, ``...ForConditionalGeneration`` depends on the encoder in front of the decoder. A
    config without ``architectures`` is judged by its ``model_type``.
    """
    architecture = architecture_of(config)
    model_type = read_text(config, "model_type")
    encoder_decoder = config.get("is_encoder_decoder") is True
    if model_type in _SPEECH_TYPES:
        return "speech-seq2seq"
    if architecture is None:
        return "causal-lm" if model_type in _CAUSAL_TYPES and not encoder_decoder else None
    if not architecture.endswith(_GENERATING_SUFFIXES):
        return None
    modalities = modalities_of(config)
    image = "image" in modalities or architecture.endswith(_IMAGE_SUFFIXES)
    causal = architecture.endswith(_CAUSAL_SUFFIXES)
    candidates: tuple[tuple[bool, GenericModelKind], ...] = (
        (image, "image-text-to-text"),
        ("audio" in modalities, "audio-text-to-text"),
        (encoder_decoder, "seq2seq-lm"),
        (causal, "causal-lm"),
    )
    return next((kind for holds, kind in candidates if holds), None)


def has_encoder(config: JSONObject) -> bool:
    """Whether text is encoded before it is decoded, so that the decoder does not run alone."""
    return any(part.get("is_encoder_decoder") is True for part in (config, text_config(config)))


def experts_of(decoder: JSONObject) -> tuple[int | None, int | None]:
    """Experts per layer and experts a token uses; ``(None, None)`` for a dense model."""
    inner = decoder.get("ffn_config")
    if isinstance(inner, dict):
        decoder = {**inner, **decoder}
    experts = read_int(decoder, *_EXPERTS)
    if not experts or experts < 2:
        return None, None
    return experts, read_int(decoder, *_ACTIVE_EXPERTS)
