"""Bytes of what grows with the square of a prompt: attention scores and masks."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.ids import DeviceKind, DType
from ollm_widgets.planning.weights import ITEM_BYTES

# Families whose attention transformers computes as a matrix of scores, because no fused kernel
# knows their soft caps, sinks or position biases (``_supports_sdpa`` of their model classes).
SCORING_FAMILIES = frozenset(
    {
        "bloom",
        "codegen",
        "deepseek_v4",
        "gemma2",
        "gpt_neo",
        "gpt_neox_japanese",
        "gpt_oss",
        "gptj",
        "granite_swa",
        "granitemoe_swa",
        "mimo_v2_flash",
        "mpt",
        "openai-gpt",
        "vaultgemma",
        "xglm",
    }
)
# Their keys and values have different widths, which the fused kernel of a CPU does not take.
_UNEQUAL_FAMILIES = frozenset({"deepseek_v2", "deepseek_v3"})
# They leave one key head for all query heads as it is, which no fused kernel takes.
_BROADCASTING_FAMILIES = frozenset({"falcon"})
# Its learned sinks join the scores, which makes copies of them in their own dtype.
_SINK_FAMILIES = frozenset({"gpt_oss"})
_SCORES_WITH_SINKS = 4
# Scores, the same masked, and both ends of a softmax in float32, as far as they are held at a
# time by ``eager_attention_forward`` and by torch's own arithmetic for attention.
_PLAIN_SCORE_BYTES = 11
# While transformers makes a mask it holds three of them: two conditions and what they have in
# common (``masking_utils.and_masks``).
_MASKS_WHILE_MAKING = 3


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """What attention takes for each pair of a row and a column, a token and one before it.

    Parameters
    ----------
    score_bytes
        Bytes of a pair in scores, all heads together; 0 where a fused kernel makes none.
    mask_bytes
        Bytes of a pair in the masks, which are made for the whole prompt.
    making_bytes
        Bytes of a pair while they are made.
    copy_bytes
        Bytes of a pair in the copy of a mask that the kernel takes.
    repeats_keys
        Whether heads that share keys and values get copies of their own.
    """

    score_bytes: int = 0
    mask_bytes: int = 0
    making_bytes: int = 0
    copy_bytes: int = 0
    repeats_keys: bool = False


FUSED = AttentionWork()


def attention_work(
    resolved: ResolvedModel, dtype: DType, tokens: int, kind: DeviceKind
) -> AttentionWork:
    """Say what attention takes; nothing where a kernel needs neither scores nor a mask.

    transformers makes no mask for a fused kernel where every token sees all before it, nor where
    the prompt is within a sliding window (``masking_utils._ignore_causal_mask_sdpa``).

    Parameters
    ----------
    tokens
        Of the prompt.
    kind
        Where it computes.
    """
    shape = resolved.shape
    if shape is None:
        return FUSED
    family, item_bytes = resolved.model_type or resolved.native_family, ITEM_BYTES[dtype]
    if family in SCORING_FAMILIES:
        score_bytes = max(3 * item_bytes, _PLAIN_SCORE_BYTES)
        if family in _SINK_FAMILIES:
            score_bytes = _SCORES_WITH_SINKS * item_bytes
        kinds = len(set(shape.layer_types)) if shape.layer_types else 1
        masks = kinds * item_bytes
        return AttentionWork(
            score_bytes=shape.attention_heads * score_bytes,
            mask_bytes=masks,
            making_bytes=masks + _MASKS_WHILE_MAKING,
            repeats_keys=True,
        )
    broadcasts = family in _BROADCASTING_FAMILIES and shape.kv_heads == 1
    if broadcasts or (family in _UNEQUAL_FAMILIES and kind == "cpu"):
        return AttentionWork(score_bytes=shape.attention_heads * _PLAIN_SCORE_BYTES)
    if _slides_within(shape, tokens):
        return AttentionWork(
            mask_bytes=1,
            making_bytes=_MASKS_WHILE_MAKING,
            copy_bytes=item_bytes,
            repeats_keys=True,
        )
    return FUSED


def _slides_within(shape: ModelShape, tokens: int) -> bool:
    """Whether some layer sees fewer tokens than the prompt has."""
    if shape.sliding_window is None or tokens < shape.sliding_window:
        return False
    return shape.layer_types is None or any("sliding" in kind for kind in shape.layer_types)
