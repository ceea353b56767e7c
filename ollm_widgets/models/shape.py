"""The numbers that memory and speed follow from: the model's shape and its weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """What one decoder layer keeps of a sequence.

    Parameters
    ----------
    token_elements
        Elements for each token: keys and values together; 0 where it keeps none.
    state_elements, float_elements
        Elements of a state of fixed size, in the dtype of the model and in float32.
    """

    token_elements: int = 0
    state_elements: int = 0
    float_elements: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of a decoder, as its config states them.

    Parameters
    ----------
    layers
        Decoder layers.
    hidden_size, intermediate_size
        Width of the residual stream and of the (dense) feed-forward block; an
        `intermediate_size` of 0 means the config does not say.
    attention_heads, kv_heads, head_dim
        Query heads, key/value heads and elements of one head.
    vocab_size
        Rows of the embedding.
    context_length
        Longest sequence in tokens (``max_position_embeddings``); 0 when the config does not say.
    sliding_window
        Tokens seen by sliding-attention layers, ``None`` when all layers see everything.
    layer_types
        One attention type per layer (``full_attention``, ``sliding_attention``,
        ``linear_attention``); ``None`` when all layers are alike: sliding where
        `sliding_window` is set, else full.
    tied_embeddings
        Whether the output projection is the embedding.
    cached
        What each layer keeps of a sequence; empty where all keep keys and values of
        ``2 * kv_heads * head_dim`` elements a token.
    """

    layers: int
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None
    tied_embeddings: bool = False
    cached: tuple[CachedLayer, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightInventory:
    """What the tensor headers of a checkpoint add up to. Nothing is read but headers.

    Parameters
    ----------
    total_bytes
        Bytes of all tensors as stored.
    parameters
        Logical elements of all tensors: a quantized block counts the weights it stands for.
    dtype
        Stored dtype that holds most elements: ``bfloat16``, ``float32``, ``Q4_1``, ...
    layer_bytes, layer_parameters
        Stored bytes and logical elements of each decoder layer, in order.
    expert_bytes, expert_parameters
        Those of them that are experts, of which a token uses a few; neither routers nor experts
        that all tokens share. 0 for a dense layer, empty where nobody looked.
    embedding_bytes, embedding_parameters
        The input embedding.
    other_bytes, other_parameters
        All the rest: final norm, output projection, vision or audio towers.
    files
        Weight files by name, relative to the model's folder.
    quantized_bytes, quantized_parameters
        Those of each decoder layer that are quantized and move as they are stored, with their
        scales; empty for a plain checkpoint.
    quantized_expert_bytes, quantized_expert_parameters
        Those of them that are experts.
    """

    total_bytes: int
    parameters: int
    dtype: str
    layer_bytes: tuple[int, ...]
    layer_parameters: tuple[int, ...]
    embedding_bytes: int
    embedding_parameters: int
    other_bytes: int
    other_parameters: int
    files: tuple[str, ...]
    expert_bytes: tuple[int, ...] = ()
    expert_parameters: tuple[int, ...] = ()
    quantized_bytes: tuple[int, ...] = ()
    quantized_parameters: tuple[int, ...] = ()
    quantized_expert_bytes: tuple[int, ...] = ()
    quantized_expert_parameters: tuple[int, ...] = ()
