"""`ModelShape` from a config or from GGUF metadata, under the many names families use."""

from __future__ import annotations

from collections.abc import Mapping

from ollm_widgets.errors import UnsafeModelError
from ollm_widgets.models.config_file import JSONObject, read_int, text_config
from ollm_widgets.models.gguf_header import GGUFHeader
from ollm_widgets.models.inventory import has_output_projection
from ollm_widgets.models.shape import ModelShape

MAX_LAYERS = 10_000

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
    layers = read_int(decoder, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    hidden = read_int(decoder, "hidden_size", "n_embd", "d_model", "dim")
    heads = read_int(decoder, "num_attention_heads", "n_head", "num_heads", "n_heads")
    if not layers or not hidden or not heads:
        return None
    kv_heads = read_int(decoder, "num_key_value_heads", "num_kv_heads", "n_head_kv")
    if kv_heads is None:
        kv_heads = 1 if decoder.get("multi_query") is True else heads
    window = read_int(decoder, "sliding_window")
    if decoder.get("use_sliding_window") is False:
        window = None
    intermediate = read_int(decoder, "intermediate_size", "n_inner", "ffn_dim", "d_ff")
    if intermediate is None and decoder.get("model_type") == "gpt2":
        intermediate = 4 * hidden
    _check_layers(layers)
    return ModelShape(
        layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate or 0,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_dim=read_int(decoder, "head_dim") or hidden // heads,
        vocab_size=read_int(decoder, "vocab_size") or read_int(config, "vocab_size") or 0,
        context_length=read_int(
            decoder, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"
        )
        or 0,
        sliding_window=window or None,
        layer_types=_layer_types(decoder, layers),
        tied_embeddings=_tied(config, decoder, own_output),
    )


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
    period = read_int(decoder, "full_attention_interval")
    other = "linear_attention"
    if period is None and decoder.get("sliding_window"):
        family = decoder.get("model_type")
        period = read_int(decoder, "sliding_window_pattern") or _SLIDING_PERIODS.get(str(family))
        other = "sliding_attention"
    if period is None or period < 2:
        return None
    return tuple(other if (n + 1) % period else "full_attention" for n in range(layers))


def _tied(config: JSONObject, decoder: JSONObject, own_output: bool | None) -> bool:
    if own_output is False:
        return True
    stated = decoder.get("tie_word_embeddings", config.get("tie_word_embeddings"))
    return stated is True
