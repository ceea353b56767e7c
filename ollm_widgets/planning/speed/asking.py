"""Asking a finished plan how fast it would be for another prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.ids import DeviceKind
from ollm_widgets.planning.passes import PlannedRun
from ollm_widgets.planning.speed.correcting import corrected
from ollm_widgets.planning.speed.loading import file_room_bytes
from ollm_widgets.planning.speed.predicted import SpeedPrediction
from ollm_widgets.planning.speed.prediction import predict_speed
from ollm_widgets.planning.weights import weight_sizes

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

_KINDS: dict[str, DeviceKind] = {"cpu": "cpu", "cuda": "cuda", "mps": "mps"}


def predict_for(
    plan: RuntimePlan, prompt_tokens: int, history_tokens: int = 0, *, files_cached: bool = False
) -> SpeedPrediction | None:
    """Predict what a plan takes for a prompt, and for each token behind it.

    Parameters
    ----------
    plan
        A plan whose speed was predicted; the speeds it was predicted with hold here too, and so
        does its correction.
    prompt_tokens
        Tokens that are computed before the first new one, 1 or more.
    history_tokens
        Tokens before them whose keys and values are known already.
    files_cached
        Predict a load of files that the page cache holds, also where the disk's speed is known.

    Returns
    -------
    SpeedPrediction or None
        None where the plan predicts no speed.

    Raises
    ------
    ConfigError
        If `prompt_tokens` is below 1, or `history_tokens` below 0.
    """
    if prompt_tokens < 1:
        raise ConfigError("prompt_tokens", f"{prompt_tokens} tokens are not a prompt.")
    if history_tokens < 0:
        raise ConfigError("history_tokens", f"{history_tokens} tokens are below zero.")
    sizes = weight_sizes(plan.resolved_model, plan.dtype)
    if plan.speed is None or sizes is None:
        return None
    kind = _KINDS[plan.device.partition(":")[0]]
    predicted = predict_speed(
        sizes,
        plan.resolved_model.shape,
        plan.dtype,
        plan.speed.bandwidth,
        context_tokens=plan.kv.context_tokens,
        window_tokens=plan.kv.window_tokens,
        use_cache=plan.config.use_cache,
        run=PlannedRun(kind, plan.placement, plan.streaming),
        kv=plan.kv,
        prompt_tokens=prompt_tokens,
        history_tokens=history_tokens,
        generic=plan.backend_id == "transformers-generic",
        text_only=plan.generic_model_kind == "causal-lm",
        file_room_bytes=file_room_bytes(plan.memory) if plan.model_path is not None else None,
        files_cached=files_cached,
    )
    return None if predicted is None else corrected(predicted, plan.speed.correction)
