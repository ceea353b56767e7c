"""Quantized checkpoints that are expanded while they are read, by transformers' own quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.models.quantization import EXPANDABLE

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.quantizers.base import HfQuantizer


def expanding_quantizer(config: PretrainedConfig) -> HfQuantizer | None:
    """Make the quantizer that expands the checkpoint of a config to plain weights.

    Parameters
    ----------
    config
        Of the model; its quantization is changed to one that expands, as `from_pretrained` does
        with ``quantization_config=FineGrainedFP8Config(dequantize=True)`` and the like.

    Returns
    -------
    HfQuantizer or None
        None for a plain checkpoint.

    Raises
    ------
    SpecializationLoadError
        For a method that cannot be expanded.
    """
    from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

    stated: Any = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    if not stated:
        return None
    if isinstance(stated, dict):
        stated = AutoQuantizationConfig.from_dict(stated)
    method = getattr(stated.quant_method, "value", stated.quant_method)
    if method not in EXPANDABLE:
        raise SpecializationLoadError(
            f"The checkpoint is quantized with {method}; {' and '.join(EXPANDABLE)} are expanded "
            "to plain weights, others do not run.",
            hint="Use the version of the model that is not quantized.",
        )
    stated.dequantize = True
    config.quantization_config = stated
    quantizer: HfQuantizer = AutoHfQuantizer.from_config(stated, pre_quantized=True)
    return quantizer


def prepare_to_expand(model: PreTrainedModel, quantizer: HfQuantizer, dtype: torch.dtype) -> None:
    """Make a model on ``meta`` ready for the recipes that expand its checkpoint.

    Follows `from_pretrained`, which does this before it maps the checkpoint to the model.
    """
    prepare: Any = quantizer.preprocess_model
    prepare(model=model, dtype=dtype, device_map=None, checkpoint_files=None, use_kernels=False)
    owner: Any = model
    owner.hf_quantizer = quantizer


def forget_quantization(model: PreTrainedModel) -> None:
    """Let an expanded model say that it is plain; its recipes must have been made before.

    Follows `from_pretrained`, which does this once the weights are loaded.
    """
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
