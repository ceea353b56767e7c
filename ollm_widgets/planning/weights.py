"""Bytes of weights once they are in memory, and those that a token reads."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape, WeightInventory
from ollm_widgets.planning.ids import DType

ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED_ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class WeightSizes:
    """Weights in memory, in the dtype they would run in.

    Parameters
    ----------
    layer_bytes
        Bytes of each decoder layer, in order.
    embeddings_bytes
        Bytes of everything else: embedding, output projection, norms, towers.
    read_per_token_bytes
        Bytes that one generated token reads: of a mixture of experts only the active ones, of
        an untied embedding only a row.
    parameters_per_token
        Parameters of the decoder layers that one prompt token passes through; logits are made
        for the last one only.
    """

    layer_bytes: tuple[int, ...]
    embeddings_bytes: int
    read_per_token_bytes: int
    parameters_per_token: int

    @property
    def layers_bytes(self) -> int:
        """All decoder layers together."""
        return sum(self.layer_bytes)

    @property
    def total_bytes(self) -> int:
        """All weights."""
        return self.layers_bytes + self.embeddings_bytes


def weight_sizes(resolved: ResolvedModel, dtype: DType) -> WeightSizes | None:
    """Return what the weights take in `dtype`; None when nothing is known of the model.

    From the tensor headers where the files are here, else from the parameter count of the
    catalog. Quantized checkpoints count as dequantized, which is how they run.
    """
    inventory = resolved.weights
    if inventory is not None:
        layers, other = _from_headers(inventory)
        tied = _runs_tied(resolved, inventory)
        read = inventory.embedding_parameters if tied else 0
        read += inventory.other_parameters
    else:
        parameters = _parameters(resolved)
        if parameters is None:
            return None
        layers, other = _from_count(resolved, parameters)
        tied = resolved.shape is None or resolved.shape.tied_embeddings
        read = other if tied else other // 2
    item_bytes = ITEM_BYTES[dtype]
    active = _active_parameters(resolved, layers)
    return WeightSizes(
        layer_bytes=tuple(count * item_bytes for count in layers),
        embeddings_bytes=other * item_bytes,
        read_per_token_bytes=(read + active) * item_bytes,
        parameters_per_token=active,
    )


def _from_headers(inventory: WeightInventory) -> tuple[tuple[int, ...], int]:
    return (
        inventory.layer_parameters,
        inventory.embedding_parameters + inventory.other_parameters,
    )


def _runs_tied(resolved: ResolvedModel, inventory: WeightInventory) -> bool:
    """Whether the embedding is the output projection, so that every token reads all of it."""
    if resolved.shape is not None:
        return resolved.shape.tied_embeddings
    return inventory.other_parameters < inventory.embedding_parameters


def _parameters(resolved: ResolvedModel) -> int | None:
    profile = resolved.capabilities
    if profile.parameters:
        return profile.parameters
    item_bytes = _STORED_ITEM_BYTES.get(profile.dtype or "")
    if profile.bytes_on_disk and item_bytes:
        return profile.bytes_on_disk // item_bytes
    return None


def _from_count(resolved: ResolvedModel, parameters: int) -> tuple[tuple[int, ...], int]:
    shape = resolved.shape
    count = layer_count(resolved)
    other = 0
    if shape is not None:
        matrices = 1 if shape.tied_embeddings else 2
        other = min(shape.vocab_size * shape.hidden_size * matrices, parameters)
    if not count:
        return (), parameters
    each, rest = divmod(parameters - other, count)
    return (each,) * count, other + rest


def layer_count(resolved: ResolvedModel) -> int:
    """Return the number of decoder layers; 0 when it is not known."""
    if resolved.weights is not None and resolved.weights.layer_parameters:
        return len(resolved.weights.layer_parameters)
    if resolved.shape is not None:
        return resolved.shape.layers
    return resolved.capabilities.layers or 0


def _active_parameters(resolved: ResolvedModel, layers: tuple[int, ...]) -> int:
    """Parameters of the layers that one token uses: all, or attention and the active experts."""
    profile = resolved.capabilities
    total = sum(layers)
    if not profile.experts or not profile.active_experts:
        return total
    attention = _attention_parameters(resolved.shape) if resolved.shape else 0
    share = min(profile.active_experts / profile.experts, 1.0)
    return sum(min(count, attention) + round(max(count - attention, 0) * share) for count in layers)


def _attention_parameters(shape: ModelShape) -> int:
    """Query, key, value and output projections of one layer."""
    heads = 2 * shape.attention_heads + 2 * shape.kv_heads
    return shape.hidden_size * heads * shape.head_dim
