"""Bytes of weights once they are in memory, and those that a token reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ollm_widgets.models.expert_families import STACKED_EXPERTS
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape, WeightInventory
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.parts import packed_bytes

ITEM_BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_MANY_EXPERTS = 32
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
    stored_layer_bytes
        Bytes of each decoder layer in the files that are read.
    expert_bytes
        Bytes of the experts of each decoder layer that can be moved one by one; 0 for a dense
        layer, and for one that moves whole.
    held_layer_bytes, held_expert_bytes
        The same where layers do not compute, and on their way to where they do: quantized
        tensors are as they are stored. Empty where all is held as it runs.
    experts, active_experts
        Experts of a layer and those that a token uses; 0 for a dense model.
    """

    layer_bytes: tuple[int, ...]
    embeddings_bytes: int
    read_per_token_bytes: int
    parameters_per_token: int
    stored_layer_bytes: tuple[int, ...] = ()
    expert_bytes: tuple[int, ...] = ()
    held_layer_bytes: tuple[int, ...] = ()
    held_expert_bytes: tuple[int, ...] = ()
    experts: int = 0
    active_experts: int = 0

    @property
    def dense_bytes(self) -> tuple[int, ...]:
        """Each decoder layer without its experts."""
        if not self.experts:
            return self.layer_bytes
        pairs = zip(self.layer_bytes, self.expert_bytes, strict=True)
        return tuple(size - in_experts for size, in_experts in pairs)

    @property
    def active_share(self) -> float:
        """Share of a layer's experts that a token uses; 1 for a dense model."""
        return self.active_experts / self.experts if self.experts else 1.0

    @property
    def held_layers(self) -> tuple[int, ...]:
        """Each decoder layer where it does not compute, if nothing is packed."""
        return self.held_layer_bytes or self.layer_bytes

    @property
    def held_experts(self) -> tuple[int, ...]:
        """The experts of each decoder layer where they do not compute."""
        return self.held_expert_bytes or self.expert_bytes

    @property
    def held_dense(self) -> tuple[int, ...]:
        """Each decoder layer without its experts, where it does not compute."""
        if not self.experts:
            return self.held_layers
        pairs = zip(self.held_layers, self.held_experts, strict=True)
        return tuple(size - in_experts for size, in_experts in pairs)

    @property
    def quantized_experts(self) -> bool:
        """Whether experts that move one by one are expanded where they run."""
        return self.held_experts != self.expert_bytes

    def stored_slot_bytes(self, layers: Iterable[int]) -> int:
        """Bytes of the largest of some layers as it is stored; 0 where none is quantized.

        Experts that move one by one are left out, as they take no slot.
        """
        held, dense = self.held_dense, self.dense_bytes
        some = tuple(layers)
        if all(held[index] == dense[index] for index in some):
            return 0
        return max(held[index] for index in some)

    def host_layer_bytes(self, *, packed: bool) -> tuple[int, ...]:
        """Each decoder layer in host memory beside an accelerator.

        Experts are never packed, nor is what is quantized.
        """
        if not packed:
            return self.held_layers
        parts = zip(self.held_layers, self.held_dense, self.dense_bytes, strict=True)
        return tuple(
            size - held + packed_bytes(held) if held == dense else size
            for size, held, dense in parts
        )

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
    catalog. Quantized checkpoints count as dequantized, which is how they run; elsewhere they
    stay as they are stored, if the tensor headers say so.
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
    experts, active_experts = _experts(resolved)
    in_experts = _expert_parameters(resolved, layers, experts)
    movable = in_experts if streams_experts(resolved) else (0,) * len(layers)
    share = active_experts / experts if experts else 1.0
    active = sum(layers) - sum(in_experts) + sum(round(count * share) for count in in_experts)
    layer_bytes = tuple(count * item_bytes for count in layers)
    expert_bytes = tuple(count * item_bytes for count in movable) if experts else ()
    held_layers, held_experts = _held(inventory, layer_bytes, expert_bytes, item_bytes)
    return WeightSizes(
        layer_bytes=layer_bytes,
        embeddings_bytes=other * item_bytes,
        read_per_token_bytes=(read + active) * item_bytes,
        parameters_per_token=active,
        stored_layer_bytes=_stored_layer_bytes(resolved, held_layers or layer_bytes),
        expert_bytes=expert_bytes,
        held_layer_bytes=held_layers,
        held_expert_bytes=held_experts,
        experts=experts,
        active_experts=active_experts,
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


def streams_experts(resolved: ResolvedModel) -> bool:
    """Whether single experts of a mixture can be moved: transformers stacks them by layer."""
    family = resolved.model_type or resolved.native_family
    return resolved.capabilities.is_mixture_of_experts() and family in STACKED_EXPERTS


def _experts(resolved: ResolvedModel) -> tuple[int, int]:
    """Experts of a layer and those that a token uses; 0 and 0 for a dense model."""
    profile = resolved.capabilities
    if not profile.is_mixture_of_experts() or not profile.experts or not profile.active_experts:
        return 0, 0
    return profile.experts, min(profile.active_experts, profile.experts)


def _expert_parameters(
    resolved: ResolvedModel, layers: tuple[int, ...], experts: int
) -> tuple[int, ...]:
    """Parameters of each layer's experts: as the tensor headers say, else by the dimensions.

    Then it is what is neither attention nor router, and where experts are many, one of them is
    taken as shared by all tokens: it may be, and is little if it is not.
    """
    if not experts:
        return (0,) * len(layers)
    if resolved.weights is not None:
        return resolved.weights.expert_parameters or (0,) * len(layers)
    shape = resolved.shape
    beside = attention_parameters(shape) + shape.hidden_size * experts if shape else 0
    shared = 1 if experts >= _MANY_EXPERTS else 0
    return tuple(max(count - beside, 0) * experts // (experts + shared) for count in layers)


def _held(
    inventory: WeightInventory | None,
    layer_bytes: tuple[int, ...],
    expert_bytes: tuple[int, ...],
    item_bytes: int,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layers and their movable experts with quantized tensors as stored; empty if there are none.

    Experts that do not move one by one have 0 bytes, here too.
    """
    if inventory is None or not any(inventory.quantized_bytes):
        return (), ()

    def held(
        each: tuple[int, ...], stored: tuple[int, ...], parameters: tuple[int, ...]
    ) -> tuple[int, ...]:
        triples = zip(each, stored, parameters, strict=True)
        return tuple(
            size - count * item_bytes + kept if size else 0 for size, kept, count in triples
        )

    return (
        held(layer_bytes, inventory.quantized_bytes, inventory.quantized_parameters),
        held(
            expert_bytes,
            inventory.quantized_expert_bytes[: len(expert_bytes)],
            inventory.quantized_expert_parameters[: len(expert_bytes)],
        ),
    )


def _stored_layer_bytes(resolved: ResolvedModel, held_bytes: tuple[int, ...]) -> tuple[int, ...]:
    inventory = resolved.weights
    if inventory is None:
        return held_bytes
    if resolved.quantization is not None:
        return held_bytes  # what is read in each pass and is not kept as stored is expanded once
    if resolved.weight_format == "gguf":
        # It is expanded to bfloat16 safetensors before it is loaded.
        return tuple(ITEM_BYTES["bfloat16"] * count for count in inventory.layer_parameters)
    return inventory.layer_bytes


def attention_parameters(shape: ModelShape) -> int:
    """Query, key, value and output projections of one layer."""
    heads = 2 * shape.attention_heads + 2 * shape.kv_heads
    return shape.hidden_size * heads * shape.head_dim
