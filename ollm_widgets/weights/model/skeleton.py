"""An unmodified transformers model without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.weights.model.building import building
from ollm_widgets.weights.model.expanding import expanding_quantizer, prepare_to_expand

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_skeleton(
    folder: Path, dtype: torch.dtype, device: torch.device, kind: str
) -> PreTrainedModel:
    """Build the model of a folder with every parameter on ``meta``.

    A quantized checkpoint gets the model of its plain weights, and the quantizer by which
    `recipes_for` expands them.

    Parameters
    ----------
    folder
        Holds ``config.json``; no weight is read.
    dtype
        What the parameters would have.
    device
        Where the buffers go that no checkpoint carries (rotary frequencies and the like).
        They are real at once, computed as `from_pretrained` computes them.
    kind
        ``causal-lm`` or ``image-text-to-text``.

    Raises
    ------
    SpecializationLoadError
        If transformers cannot build the model, or the checkpoint is quantized by a method that
        cannot be expanded.
    """
    with building():
        return _built(folder, dtype, device, kind)


def _built(folder: Path, dtype: torch.dtype, device: torch.device, kind: str) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    factory = AutoModelForImageTextToText if kind == "image-text-to-text" else AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        quantizer = expanding_quantizer(config)
        make: Callable[..., PreTrainedModel] = factory.from_config
        with torch.device("meta"):
            model = make(config, dtype=dtype)
            if quantizer is not None:
                prepare_to_expand(model, quantizer, dtype)
    except Exception as error:  # a config that does not fit raises what the model's code raises
        raise SpecializationLoadError(
            f"transformers cannot build the model in {folder.name}: {error}"
        ) from error
    _read_generation_config(model, folder)
    _fill_computed_buffers(model, device)
    model.train(False)
    return model


def _read_generation_config(model: PreTrainedModel, folder: Path) -> None:
    from transformers import GenerationConfig

    if not model.can_generate():
        return
    try:
        found = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        # Older models keep what concerns generation in their config, as `from_pretrained` knows.
        found = GenerationConfig.from_pretrained(
            folder, config_file_name="config.json", _from_model_config=True, local_files_only=True
        )
    model.generation_config = found


@torch.no_grad()
def _fill_computed_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Give non-persistent buffers memory and let each model's own `_init_weights` fill them.

    That is transformers' contract for models made on ``meta``. Parameters stay there, and
    initialising them costs nothing.
    """
    for owner, module in _with_owner(model):
        names = module._non_persistent_buffers_set
        buffers = {name: module._buffers.get(name) for name in names}
        if not any(buffer is not None and buffer.is_meta for buffer in buffers.values()):
            continue
        for name, buffer in buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
        initialise: Callable[[nn.Module], None] = owner._init_weights
        initialise(module)
        for name in names:
            buffer = module._buffers.get(name)
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def _with_owner(model: PreTrainedModel) -> Iterator[tuple[PreTrainedModel, nn.Module]]:
    """Each module with the innermost pretrained model that it belongs to."""
    from transformers import PreTrainedModel

    pending: list[tuple[PreTrainedModel, nn.Module]] = [(model, model)]
    while pending:
        owner, module = pending.pop()
        if isinstance(module, PreTrainedModel):
            owner = module
        yield owner, module
        pending += [(owner, child) for child in module.children()]
