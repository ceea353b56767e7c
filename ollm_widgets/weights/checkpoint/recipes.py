"""How each tensor of a model comes from its checkpoint, by transformers' own mapping."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ollm_widgets.errors import MalformedModelError, SpecializationLoadError
from ollm_widgets.weights.checkpoint.conversions import Conversion, ConversionJob, torch_dtype
from ollm_widgets.weights.checkpoint.index import CheckpointIndex
from ollm_widgets.weights.checkpoint.mapping import DtypePolicy, MappedTensor, map_tensors
from ollm_widgets.weights.checkpoint.moves import TracedTensor, runs_of
from ollm_widgets.weights.checkpoint.quantized import QuantizedForms
from ollm_widgets.weights.checkpoint.recipe import Piece, TensorRecipe
from ollm_widgets.weights.checkpoint.tied import settle_tied, tied_names, untied

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# More or shorter pieces than these are slower to read one by one than to convert.
_MOST_PIECES = 4096
_FEW_PIECES = 16
_SHORT_PIECE_BYTES = 256
_MOST_NAMED = 5


def recipes_for(model: PreTrainedModel, index: CheckpointIndex) -> dict[str, TensorRecipe]:
    """Find how every parameter and persistent buffer of a model comes from a checkpoint.

    Parameters
    ----------
    model
        The model on meta, of the dtype it shall have.
    index
        Its checkpoint.

    Returns
    -------
    dict
        By name in the model. Of names that share a parameter only the source has one, unless the
        checkpoint holds other values under the tied name. What transformers initializes without a
        checkpoint (`_keys_to_ignore_on_load_missing`) has none.

    Raises
    ------
    MalformedModelError
        When tensors are missing or have another shape: transformers would make them up.
    SpecializationLoadError
        When tensors cannot be converted.
    """
    state = model.state_dict()
    recipes: dict[str, TensorRecipe] = {}
    for mapped in map_tensors(model, index, state):
        for recipe in _recipes_of(mapped, model, state):
            recipes[recipe.name] = recipe
    if _is_expanded(model):
        policy, forms = DtypePolicy(model), QuantizedForms()
        for name, recipe in recipes.items():
            # What its quantizer does not expand, transformers leaves in the dtype it is stored in.
            dtype = policy.planned(name, state[name].dtype)
            quantized = forms.of(recipe, dtype)
            recipes[name] = replace(recipe, dtype=dtype, quantized=quantized)
    tied = tied_names(model)
    recipes = settle_tied(recipes, tied)
    missing = untied(state.keys() - recipes.keys(), tied, recipes)
    _require_complete(model, state, recipes, missing)
    return {name: recipes[name] for name in state if name in recipes}


def _is_expanded(model: PreTrainedModel) -> bool:
    """Whether a quantized checkpoint becomes a plain model."""
    quantizer = getattr(model, "hf_quantizer", None)
    return quantizer is not None and bool(
        getattr(quantizer.quantization_config, "dequantize", False)
    )


def _recipes_of(
    mapped: MappedTensor, model: PreTrainedModel, state: Mapping[str, torch.Tensor]
) -> list[TensorRecipe]:
    if mapped.converter is None:
        (source,) = mapped.sources
        span = source.span
        whole = (Piece(span, 0, span.size_bytes, 0),) if span.size_bytes else ()
        return [TensorRecipe(mapped.name, source.dtype, span.shape, whole, None)]
    job = ConversionJob(mapped.converter, mapped.name, tuple(mapped.sources), model)
    recipes = _placed(job) or _converted(job)
    return [recipe for recipe in recipes if recipe.name in state]


def _placed(job: ConversionJob) -> list[TensorRecipe]:
    """Recipes of what a converter only moves; none when it does more."""
    spans = [source.span for source in job.sources]
    sizes = [torch_dtype(span).itemsize for span in spans]
    try:
        made = job.run(
            [
                TracedTensor.of_source(number, source.span.shape, source.dtype)
                for number, source in enumerate(job.sources)
            ]
        )
        recipes = []
        for name, tensor in made.items():
            if not isinstance(tensor, TracedTensor):
                return []
            runs = runs_of(tensor, _MOST_PIECES)
            pieces = tuple(
                Piece(
                    spans[run.source],
                    run.source_element * sizes[run.source],
                    run.elements * sizes[run.source],
                    run.target_element,
                )
                for run in runs
            )
            if _are_too_short(pieces):
                return []
            recipes.append(TensorRecipe(name, tensor.dtype, tuple(tensor.shape), pieces, None))
    except Exception:
        # Whatever keeps it from being traced, the conversion itself will tell if it is an error.
        return []
    return recipes


def _are_too_short(pieces: Sequence[Piece]) -> bool:
    stored = sum(piece.size_bytes for piece in pieces)
    return len(pieces) > _FEW_PIECES and stored < len(pieces) * _SHORT_PIECE_BYTES


def _converted(job: ConversionJob) -> list[TensorRecipe]:
    """Recipes of what a converter computes; names and shapes come from a run on meta."""
    try:
        made = job.run(
            [
                torch.empty(source.span.shape, dtype=torch_dtype(source.span), device="meta")
                for source in job.sources
            ]
        )
    except Exception as error:
        raise SpecializationLoadError(
            f"transformers' conversion of {job.sources[0].span.name!r} to {job.first_name!r} "
            f"({job.converter}) failed: {error}",
            hint="Use backend='transformers-generic'.",
        ) from error
    return [
        TensorRecipe(name, tensor.dtype, tuple(tensor.shape), (), Conversion(name, job))
        for name, tensor in made.items()
    ]


def _require_complete(
    model: PreTrainedModel,
    state: Mapping[str, torch.Tensor],
    recipes: Mapping[str, TensorRecipe],
    missing: set[str],
) -> None:
    ignored = [re.compile(p) for p in getattr(model, "_keys_to_ignore_on_load_missing", None) or ()]
    lacking = sorted(name for name in missing if not any(p.search(name) for p in ignored))
    if lacking:
        raise MalformedModelError(
            f"The checkpoint lacks {len(lacking)} of {len(state)} tensors of "
            f"{type(model).__name__}: {_first_of(lacking)}.",
            hint="Get the model's files again, or choose the task that the checkpoint was made "
            "for.",
        )
    if getattr(model, "hf_quantizer", None) is not None and not _is_expanded(model):
        return  # A quantized module may hold a tensor in another shape than it announces.
    mismatched = [
        f"{name} is {list(recipe.shape)} and should be {list(state[name].shape)}"
        for name, recipe in recipes.items()
        if recipe.shape != tuple(state[name].shape)
    ]
    if mismatched:
        raise MalformedModelError(
            f"{len(mismatched)} tensors of the checkpoint have another shape than "
            f"{type(model).__name__} of this config: {_first_of(mismatched)}.",
            hint="The config and the weights belong to different models; get both again.",
        )


def _first_of(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
