"""Which layers of a model can have a window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import KVStrategyError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HINT = "Use resident."


def boundable_layers(model: PreTrainedModel) -> tuple[list[Any], list[int]]:
    """Find the layers of a model whose keys and values a window can bound.

    Of a model that mixes kinds, those with full attention; the others bound their memory
    themselves. Of one whose layers are all alike and slide, all.

    Returns
    -------
    tuple
        The cache layers that transformers gives the model, and the numbers of those to replace.

    Raises
    ------
    KVStrategyError
        Where there are none, or the model's attention cannot be told what it sees.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    config: Any = model.config.get_text_config(decoder=True)
    _require_masks(model.config, config)
    layers = list(DynamicCache(config=config).layers)
    kinds: set[type] = {DynamicLayer}
    if getattr(config, "layer_types", None) is None:
        kinds.add(DynamicSlidingWindowLayer)
    found = [index for index, layer in enumerate(layers) if type(layer) in kinds]
    if not found:
        types = sorted(set(getattr(config, "layer_types", None) or ()))
        raise KVStrategyError(
            "sliding-window-ring-buffer needs layers with full attention; this model has "
            f"{' and '.join(types) or 'none'}.",
            hint="Use resident: the model's own layers already bound their memory.",
        )
    return layers, found


def _require_masks(whole: Any, config: Any) -> None:
    """Refuse attention that does not go by a mask over the keys it is given."""
    from ollm_widgets.kv.window.masks import ATTENTIONS

    attention = config._attn_implementation
    if attention not in ATTENTIONS:
        raise KVStrategyError(
            f"sliding-window-ring-buffer needs the {' or '.join(ATTENTIONS)} attention; this "
            f"model uses {attention}.",
            hint=_HINT,
        )
    if getattr(whole, "is_encoder_decoder", False):
        raise KVStrategyError(
            "sliding-window-ring-buffer bounds decoders; this model has an encoder beside one.",
            hint=_HINT,
        )
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        raise KVStrategyError(
            "sliding-window-ring-buffer drops keys, and this model's attention counts them "
            "(ALiBi).",
            hint=_HINT,
        )
