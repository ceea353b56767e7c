"""Checkpoints and models on meta for the tests of the weights, and reading all of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from ollm_widgets.weights.checkpoint.index import CheckpointIndex, TensorSpan
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.checkpoint.recipe import Piece, TensorRecipe
from ollm_widgets.weights.reading.reader import WeightReader
from tests.models.architectures import Architecture, build

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_tiny(architecture: Architecture, folder: Path, **saving: object) -> Path:
    """A random bfloat16 checkpoint."""
    build(architecture).save_pretrained(folder, **saving)
    return folder


def auto_class(kind: str) -> type:
    import transformers

    return {
        "causal-lm": transformers.AutoModelForCausalLM,
        "image-text-to-text": transformers.AutoModelForImageTextToText,
    }[kind]


def model_on_meta(folder: Path, dtype: torch.dtype, kind: str = "causal-lm") -> PreTrainedModel:
    """The model of a checkpoint's config, without weights."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(kind).from_config(config, dtype=dtype)
    return model


def read_all(
    recipes: Mapping[str, TensorRecipe], index: CheckpointIndex, *, direct: bool = False
) -> dict[str, torch.Tensor]:
    """Read every tensor through one layout."""
    layout = LayerLayout.of("", recipes.values())
    buffer = torch.full((layout.size_bytes,), 0xAA, dtype=torch.uint8)
    with WeightReader(index, threads=3, direct=direct) as reader:
        reader.read(layout, buffer).wait()
    return layout.views(buffer)


def index_of(folder: Path, **tensors: torch.Tensor) -> CheckpointIndex:
    """The index of a checkpoint made of these tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return CheckpointIndex.of(folder)


def as_it_is(span: TensorSpan, dtype: torch.dtype | None = None) -> TensorRecipe:
    """The recipe of a module tensor that is a checkpoint tensor, perhaps cast."""
    pieces = (Piece(span, 0, span.size_bytes, 0),) if span.size_bytes else ()
    stored: torch.dtype = getattr(torch, span.dtype)
    return TensorRecipe(span.name, dtype or stored, span.shape, pieces, None)
