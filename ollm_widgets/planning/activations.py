"""Bytes of intermediate results, and how much of a prompt passes a layer at once."""

from __future__ import annotations

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.ids import DeviceKind, DType
from ollm_widgets.planning.weights import ITEM_BYTES, attention_parameters

LEAST_CHUNK_TOKENS = 256
_MOST_CHUNK_TOKENS = 8192
_CHUNK_BYTES = 1024**3
_CPU_WHOLE_TOKENS = 2048
_CPU_CHUNK_TOKENS = 1024
# What cuBLAS and the captured steps keep beside the results themselves.
_CUDA_WORKSPACE_BYTES = 64 * 1024**2


def activation_bytes(
    shape: ModelShape,
    dtype: DType,
    tokens: int,
    chunk_tokens: int | None = None,
    *,
    feed_forward: int | None = None,
) -> int:
    """Estimate what a prompt of `tokens` needs beside weights and KV cache, at its peak.

    One layer at a time: four copies of the residual stream, queries, keys, values and the
    attention's output, gate, up and their product in the feed-forward block; attention itself
    makes no square matrix. Then float32 logits of the last token, and a copy for sampling.
    In chunks these are of one chunk only; what comes into and goes out of the layer is of the
    whole prompt, and so is a copy of the layer's keys and values, which grow by each chunk.

    Parameters
    ----------
    chunk_tokens
        Rows that pass a layer at once, None for all.
    feed_forward
        Elements a row needs in the feed-forward block; None for a dense one of the shape's width.
    """
    block = dense_feed_forward(shape) if feed_forward is None else feed_forward
    history = 2 * shape.kv_heads * shape.head_dim
    before_block = 4 * shape.hidden_size + 2 * shape.attention_heads * shape.head_dim + history
    at_once = tokens if chunk_tokens is None else min(tokens, chunk_tokens)
    if _attends_everywhere(shape):
        in_chunks = tokens * (2 * shape.hidden_size + history) + at_once * (before_block + block)
    else:  # such layers take a prompt whole, their feed-forward block in chunks
        in_chunks = tokens * before_block + at_once * block
    elements = min(in_chunks, tokens * (before_block + block))
    return elements * ITEM_BYTES[dtype] + 2 * 4 * shape.vocab_size


def _attends_everywhere(shape: ModelShape) -> bool:
    return all(
        kind.endswith("_attention") and kind != "linear_attention"
        for kind in shape.layer_types or ()
    )


def streamed_activation_bytes(
    resolved: ResolvedModel, dtype: DType, tokens: int, chunk_tokens: int | None, kind: DeviceKind
) -> int:
    """Estimate the same for optimized-native: in chunks, and experts with their own widths."""
    if resolved.shape is None:
        return 0
    block = _feed_forward(resolved, resolved.shape)
    work = activation_bytes(resolved.shape, dtype, tokens, chunk_tokens, feed_forward=block)
    return work + (_CUDA_WORKSPACE_BYTES if kind == "cuda" else 0)


def prefill_chunk_tokens(
    resolved: ResolvedModel,
    dtype: DType,
    kind: DeviceKind,
    context_tokens: int,
    asked: int | None,
) -> int | None:
    """Choose how many rows of a prompt pass a layer at once; None for all.

    On an accelerator as many as keep the activations of one chunk under 1 GiB, between 256 and
    8,192; on a CPU, whose caches a short prompt fits, all up to 2,048 and 1,024 of more.

    Parameters
    ----------
    asked
        What the config says.
    """
    if asked is not None:
        return asked
    if kind == "cpu":
        return None if context_tokens <= _CPU_WHOLE_TOKENS else _CPU_CHUNK_TOKENS
    shape = resolved.shape
    if shape is None:
        return _CPU_CHUNK_TOKENS
    block = _feed_forward(resolved, shape)
    fixed = activation_bytes(shape, dtype, 0, feed_forward=block)
    row = max(activation_bytes(shape, dtype, 1, feed_forward=block) - fixed, 1)
    rows = _CHUNK_BYTES // row // LEAST_CHUNK_TOKENS * LEAST_CHUNK_TOKENS
    return max(LEAST_CHUNK_TOKENS, min(rows, _MOST_CHUNK_TOKENS))


def dense_feed_forward(shape: ModelShape) -> int:
    """Elements of a row in a dense feed-forward block: gate, up and their product."""
    return 3 * (shape.intermediate_size or 4 * shape.hidden_size)


def _feed_forward(resolved: ResolvedModel, shape: ModelShape) -> int:
    """Elements of a row in the wider of the dense block and the active experts.

    Each active expert takes a copy of the row, makes gate, up and their product in its own
    width, and gives a row back; the width follows from the layer's parameters, three matrices
    ``[hidden, width]`` an expert.
    """
    dense = dense_feed_forward(shape)
    profile, weights = resolved.capabilities, resolved.weights
    if not profile.experts or not profile.active_experts or weights is None:
        return dense
    largest = max(weights.layer_parameters, default=0)
    in_experts = max(largest - attention_parameters(shape), 0)
    width = in_experts // (3 * shape.hidden_size * profile.experts)
    return max(dense, profile.active_experts * (2 * shape.hidden_size + 3 * width))
