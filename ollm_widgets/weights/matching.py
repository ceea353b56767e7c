"""Whether a model matches what the engine does, and which tensors belong to which layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.errors import SpecializationLoadError
from ollm_widgets.weights.checkpoint.layout import LayerLayout
from ollm_widgets.weights.homes import LayerHome, Part
from ollm_widgets.weights.quantized.form import StoredForm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ollm_widgets.planning.parts import LayerPlacement, StreamingPlan
    from ollm_widgets.weights.checkpoint.recipe import TensorRecipe
    from ollm_widgets.weights.model.structure import DecoderStructure


def refuse_unmatched(
    model: PreTrainedModel, structure: DecoderStructure, placement: LayerPlacement
) -> None:
    """Refuse a plan for other layers, and layers that cannot come one by one.

    Raises
    ------
    SpecializationLoadError
        With the reason.
    """
    if len(placement.tiers) != len(structure.layers):
        raise SpecializationLoadError(
            f"The plan places {len(placement.tiers)} layers, the model has {len(structure.layers)}."
        )
    shared = [name for name in model.all_tied_weights_keys if name.startswith(f"{structure.path}.")]
    if shared:
        raise SpecializationLoadError(
            f"Its layers share weights ({shared[0]}), so they cannot stream one by one."
        )


def lay_out_layers(
    structure: DecoderStructure, recipes: dict[str, TensorRecipe], streaming: StreamingPlan
) -> tuple[list[LayerHome], Part]:
    """Give each layer a layout, its experts one of their own if they move on their own.

    Returns
    -------
    list of LayerHome, Part
        The layers, on disk for now, and all that is no layer.
    """
    homes = []
    in_layers: set[str] = set()
    for number, group in enumerate(structure.expert_groups):
        prefix = f"{structure.path}.{number}"
        own = [recipe for name, recipe in recipes.items() if name.startswith(f"{prefix}.")]
        in_layers.update(recipe.name for recipe in own)
        apart: set[str] = set()
        if group is not None and streaming.expert_streaming:
            apart = {f"{prefix}.{group.path}.{name}" for name in group.parameters}
        dense = LayerLayout.of(prefix, [recipe for recipe in own if recipe.name not in apart])
        experts = LayerLayout.of(prefix, [recipe for recipe in own if recipe.name in apart])
        homes.append(LayerHome(_part(dense), _part(experts) if apart else None))
    other = [recipe for name, recipe in recipes.items() if name not in in_layers]
    return homes, _part(LayerLayout.of("", other))


def _part(layout: LayerLayout) -> Part:
    return Part(layout, StoredForm.of(layout))
