"""What each decoder layer keeps of the tokens before, from a config."""

from __future__ import annotations

from collections.abc import Sequence

from ollm_widgets.models.config_file import JSONObject, read_int
from ollm_widgets.models.shape import CachedLayer

# They cache one latent and one rotary key for all heads (transformers, ``DeepseekV3Attention``).
LATENT_ATTENTION = frozenset({"deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_linear"})
_STATES = frozenset({"linear_attention", "mamba", "conv", "recurrent"})
_STATE_AND_TOKENS = "hybrid"
_NOTHING = frozenset({"mlp", "moe"})
_KERNEL = 4


def cached_layers(
    decoder: JSONObject, layer_types: Sequence[str] | None, kv_heads: int, head_dim: int
) -> tuple[CachedLayer, ...]:
    """Say what each layer keeps; empty where all keep keys and values of the same width.

    Parameters
    ----------
    decoder
        The decoder's config.
    layer_types
        One type per layer; None when all are alike.
    kv_heads, head_dim
        Of a plain layer, as the cache holds them.
    """
    if layer_types is None:
        return ()
    state = _state(decoder)
    plain = CachedLayer(token_elements=2 * kv_heads * head_dim)
    wide = CachedLayer(token_elements=_full_width(decoder, kv_heads, head_dim))
    both = CachedLayer(plain.token_elements, state.state_elements, state.float_elements)
    shared = read_int(decoder, "num_kv_shared_layers") or 0
    last_own = len(layer_types) - shared
    layers = []
    for index, kind in enumerate(layer_types):
        if kind in _NOTHING or index >= last_own:
            layers.append(CachedLayer())  # these look at what an earlier layer keeps
        elif kind in _STATES:
            layers.append(state)
        elif kind == _STATE_AND_TOKENS:
            layers.append(both)
        else:
            layers.append(wide if kind == "full_attention" else plain)
    return () if set(layers) == {plain} else tuple(layers)


def _full_width(decoder: JSONObject, kv_heads: int, head_dim: int) -> int:
    """Keys and values of a layer that sees everything; in Gemma 4 it has heads of its own."""
    heads = read_int(decoder, "num_global_key_value_heads") or kv_heads
    return 2 * heads * (read_int(decoder, "global_head_dim") or head_dim)


def _state(decoder: JSONObject) -> CachedLayer:
    """The state of a layer without keys and values: last inputs of a convolution, and a memory.

    The memory is float32 in every family (transformers, ``LinearAttentionLayer``).
    """
    hidden = read_int(decoder, "hidden_size") or 0
    if read_int(decoder, "linear_num_value_heads"):  # Qwen3NextGatedDeltaNet
        values = read_int(decoder, "linear_num_value_heads") or 0
        keys = read_int(decoder, "linear_num_key_heads") or 0
        key_dim = read_int(decoder, "linear_key_head_dim") or 0
        value_dim = read_int(decoder, "linear_value_head_dim") or 0
        width = 2 * keys * key_dim + values * value_dim
        kernel = read_int(decoder, "linear_conv_kernel_dim") or _KERNEL
        return CachedLayer(0, width * kernel, values * key_dim * value_dim)
    if read_int(decoder, "conv_L_cache"):  # Lfm2ShortConv
        return CachedLayer(0, hidden * (read_int(decoder, "conv_L_cache") or 0))
    state = read_int(decoder, "mamba_d_state", "ssm_state_size", "state_size")
    if not state:
        return CachedLayer()
    kernel = read_int(decoder, "mamba_d_conv", "conv_kernel") or _KERNEL
    heads = read_int(decoder, "mamba_n_heads", "mamba_num_heads")
    if heads is None and decoder.get("model_type") == "mamba2":
        heads = read_int(decoder, "num_heads")
    expanded = (read_int(decoder, "mamba_expand", "expand") or 2) * hidden
    if heads is None:  # MambaMixer
        inner = read_int(decoder, "mamba_intermediate_size") or expanded
        return CachedLayer(0, inner * kernel, inner * state)
    head_dim = read_int(decoder, "mamba_d_head", "mamba_head_dim", "head_dim")
    inner = heads * (head_dim or max(expanded // heads, 1))  # Mamba2Mixer
    groups = read_int(decoder, "mamba_n_groups", "n_groups") or 1
    return CachedLayer(0, (inner + 2 * groups * state) * kernel, inner * state)
