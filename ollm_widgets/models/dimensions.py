"""`ModelShape` from a config or from GGUF metadata, under the many names families use."""

from __future__ import annotations

from collections.abc import Mapping

from ollm_widgets.errors import UnsafeModelError
from ollm_widgets.models.cached_layers import LATENT_ATTENTION, cached_layers
from ollm_widgets.models.config_file import JSONObject, read_int, text_config
from ollm_widgets.models.family_defaults import with_family_defaults
from ollm_widgets.models.gguf_header import GGUFHeader
from ollm_widgets.models.inventory import has_output_projection
from ollm_widgets.models.shape import ModelShape

MAX_LAYERS = 10_000

_LAYERS = (
    "decoder_layers",
    "num_decoder_layers",
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
)
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_HEADS = ("decoder_attention_heads", "num_attention_heads", "n_head", "num_heads", "n_heads")
_FEED_FORWARD = (
    "decoder_ffn_dim",
    "intermediate_size",
    "ffn_hidden_size",
    "n_inner",
    "ffn_dim",
    "d_ff",
)
_CONTEXT = (
    "max_target_positions",
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
)
# Their feed-forward block is four times as wide as the model unless the config says otherwise.
_FOURFOLD = ("bloom", "falcon", "gpt2", "gpt_bigcode", "gptj")
# No layer of these attends to earlier tokens; a state of fixed size stands in for them.
_STATE_SPACE = ("falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm")

# Each layer has attention and a state side by side.
_SIDE_BY_SIDE = ("falcon_h1",)
# Few layers attend; their configs say which, by period or by number.
_MOSTLY_STATES = ("bamba", "jamba")

# Every n-th layer sees everything, in families whose configs may leave that to a default.
_SLIDING_PERIODS = {"gemma2": 2, "gemma3_text": 6, "cohere2": 4}


def shape_from_config(config: JSONObject, own_output: bool | None = None) -> ModelShape | None:
    """Read the decoder's dimensions.

    Parameters
    ----------
    config
        The whole ``config.json``; a nested text config is found.
    own_output
        Whether the checkpoint has an output projection of its own, where known.

    Returns
    -------
    ModelShape or None
        ``None`` when layers, width or heads are not stated.
    """
    decoder = text_config(config)
    if decoder is not config:
        decoder = with_family_defaults(decoder)
    layers = read_int(decoder, *_LAYERS)
    hidden = read_int(decoder, *_WIDTH)
    heads = read_int(decoder, *_HEADS)
    if not layers or not hidden or not heads:
        return None
    _check_layers(layers)
    kv_heads, head_dim = _cached_heads(decoder, hidden, heads)
    window = read_int(decoder, "sliding_window")
    if decoder.get("use_sliding_window") is False:
        window = None
    layer_types = _layer_types(decoder, layers)
    return ModelShape(
        layers=layers,
        hidden_size=hidden,
        intermediate_size=_intermediate_size(decoder, hidden),
        attention_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=read_int(decoder, "vocab_size") or read_int(config, "vocab_size") or 0,
        context_length=read_int(decoder, *_CONTEXT) or 0,
        sliding_window=window or None,
        layer_types=layer_types,
        tied_embeddings=_tied(config, decoder, own_output),
        cached=cached_layers(decoder, layer_types, kv_heads, head_dim),
    )


def _cached_heads(decoder: JSONObject, hidden: int, heads: int) -> tuple[int, int]:
    """Key/value heads and their width, as the KV cache holds them."""
    latent = read_int(decoder, "kv_lora_rank")
    rotary = read_int(decoder, "qk_rope_head_dim")
    if latent and rotary and decoder.get("model_type") in LATENT_ATTENTION:
        # Multi-head latent attention caches one latent and one rotary key for all heads
        # (transformers, DeepseekV3Attention); half of both is the width of a key/value pair.
        return 1, (latent + rotary) // 2
    kv_heads = read_int(decoder, "num_key_value_heads", "num_kv_heads", "n_head_kv")
    if decoder.get("multi_query") is True and decoder.get("new_decoder_architecture") is not True:
        kv_heads = 1
    return kv_heads or heads, read_int(decoder, "head_dim", "d_kv") or hidden // heads


def _intermediate_size(decoder: JSONObject, hidden: int) -> int:
    stated = decoder.get("intermediate_size")
    if isinstance(stated, list):
        sizes = [read_int({"intermediate_size": size}, "intermediate_size") for size in stated]
        return max((size for size in sizes if size), default=0)
    found = read_int(decoder, *_FEED_FORWARD)
    if found is None and decoder.get("model_type") in _FOURFOLD:
        return 4 * hidden
    return found or 0


def shape_from_gguf(header: GGUFHeader) -> ModelShape | None:
    """Read the decoder's dimensions from GGUF metadata."""
    prefix = header.text("general.architecture") or ""

    def number(key: str) -> int | None:
        names: Mapping[str, object] = {key: header.integer(f"{prefix}.{key}")}
        return read_int(names, key)

    layers, hidden = number("block_count"), number("embedding_length")
    heads = number("attention.head_count")
    if not layers or not hidden or not heads:
        return None
    _check_layers(layers)
    vocabulary = number("vocab_size") or header.array_length("tokenizer.ggml.tokens") or 0
    return ModelShape(
        layers=layers,
        hidden_size=hidden,
        intermediate_size=number("feed_forward_length") or 0,
        attention_heads=heads,
        kv_heads=number("attention.head_count_kv") or heads,
        head_dim=number("attention.key_length") or hidden // heads,
        vocab_size=vocabulary,
        context_length=number("context_length") or 0,
        sliding_window=number("attention.sliding_window") or None,
        tied_embeddings=not has_output_projection(header.tensors),
    )


def _check_layers(layers: int) -> None:
    if layers > MAX_LAYERS:
        raise UnsafeModelError(
            f"The config announces {layers:,} layers; no model has more than {MAX_LAYERS:,}."
        )


def _layer_types(decoder: JSONObject, layers: int) -> tuple[str, ...] | None:
    types = decoder.get("layer_types")
    if isinstance(types, list) and types and len(types) <= MAX_LAYERS:
        return tuple(str(kind) for kind in types)
    family = decoder.get("model_type")
    if family in _STATE_SPACE:
        return ("linear_attention",) * layers
    if family in _SIDE_BY_SIDE:
        return ("hybrid",) * layers
    if family in _MOSTLY_STATES:
        return _attention_among_states(decoder, layers)
    period = read_int(decoder, "full_attention_interval")
    other = "linear_attention"
    if period is None and decoder.get("sliding_window"):
        period = read_int(decoder, "sliding_window_pattern") or _SLIDING_PERIODS.get(str(family))
        other = "sliding_attention"
    if period is None or period < 2:
        return None
    return tuple(other if (n + 1) % period else "full_attention" for n in range(layers))


def _attention_among_states(decoder: JSONObject, layers: int) -> tuple[str, ...]:
    stated = decoder.get("attn_layer_indices")
    attend = set(stated) if isinstance(stated, list) else set()
    period = read_int(decoder, "attn_layer_period")
    if period:
        attend = set(range(read_int(decoder, "attn_layer_offset") or 0, layers, period))
    return tuple("full_attention" if n in attend else "linear_attention" for n in range(layers))


def _tied(config: JSONObject, decoder: JSONObject, own_output: bool | None) -> bool:
    if own_output is False:
        return True
    stated = decoder.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return stated is True
