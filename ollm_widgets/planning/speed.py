"""How fast a plan should run, from measured bandwidth."""

from __future__ import annotations

from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.bandwidth import Bandwidth
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.memory import kv_bytes
from ollm_widgets.planning.parts import SpeedPrediction
from ollm_widgets.planning.weights import WeightSizes
from ollm_widgets.render.units import format_bytes, format_count

DEFAULT_PROMPT_TOKENS = 512
# What transformers spends on one decoder layer beside reading it, in dispatching its small
# operations: 0.6 to 0.7 ms, measured on models shaped like SmolLM2-135M on two CPU cores.
_LAYER_OVERHEAD_S = 0.00065


def predict_speed(
    sizes: WeightSizes,
    shape: ModelShape | None,
    dtype: DType,
    bandwidth: Bandwidth,
    *,
    context_tokens: int,
    window_tokens: int | None = None,
    use_cache: bool = True,
) -> SpeedPrediction:
    """Predict decode and prefill of a model that is wholly in one memory.

    Decoding reads every active weight and the KV cache once a token, so it is bound by memory;
    prefill does ``2 * parameters`` float operations a prompt token (Kaplan et al. 2020, section
    2.1), so it is bound by arithmetic.

    Parameters
    ----------
    context_tokens, window_tokens
        Tokens planned for, and those the KV cache keeps; the prompt is taken as 512 tokens, or
        as the context if that is shorter.
    use_cache
        Without a KV cache every token costs a pass over all tokens before it.
    """
    prompt_tokens = min(DEFAULT_PROMPT_TOKENS, context_tokens)
    history = kv_bytes(shape, dtype, prompt_tokens, window_tokens) if shape is not None else 0
    overhead_s = len(sizes.layer_bytes) * _LAYER_OVERHEAD_S
    read_s = (sizes.read_per_token_bytes + history) / bandwidth.read_bytes_per_s
    operations = 2 * sizes.parameters_per_token * prompt_tokens
    first_s = max(operations / bandwidth.flops_per_s, read_s) + overhead_s
    per_token_s = read_s + overhead_s if use_cache else first_s
    read = format_bytes(sizes.read_per_token_bytes + history)
    rate = format_bytes(bandwidth.read_bytes_per_s)
    why = (
        f"Each token reads {read} at the {rate}/s measured here; a prompt does "
        f"2 x {format_count(sizes.parameters_per_token)} operations a token at "
        f"{bandwidth.flops_per_s / 1e9:,.0f} GFLOP/s."
    )
    if not use_cache:
        why = f"Without a KV cache each token costs a whole pass. {why}"
    return SpeedPrediction(per_token_s, first_s, prompt_tokens, bandwidth, why)
