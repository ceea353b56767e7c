"""Bytes of intermediate results, and how much of a prompt passes a layer at once."""

from __future__ import annotations

import math

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.shape import ModelShape
from ollm_widgets.planning.attention_work import FUSED, AttentionWork, attention_work
from ollm_widgets.planning.ids import DeviceKind, DType
from ollm_widgets.planning.memory import attention_layers
from ollm_widgets.planning.weights import ITEM_BYTES, attention_parameters

LEAST_CHUNK_TOKENS = 256
_MOST_CHUNK_TOKENS = 8192
_CHUNK_BYTES = 1024**3
_CPU_WHOLE_TOKENS = 2048
_CPU_CHUNK_TOKENS = 1024
# Their dense blocks compute gate and up as one matrix.
_FUSED_GATE_FAMILIES = frozenset(
    {"dia", "glm", "glm4", "glm4v", "glm_ocr", "phi3", "phi4_multimodal"}
)
# A block with a gate has three matrices, one without has two.
_GATED_MATRICES = 2.5
# Widths of an expert that a row takes while it passes one; four are gate, up, one of them
# activated, and their product. Those of gpt_oss have biases, and are clamped before.
_EXPERT_WIDTHS = {"gpt_oss": 11}
# A float32 takes as much as this many elements of 16 bits.
_SCORE_ELEMENTS = 2
_ID_BYTES = 8
# What cuBLAS keeps for each stream, 32 MiB on a Hopper, and captured steps in a pool of their
# own: up to about 100 MB in all, by the peaks seen on an H200.
_CUDA_WORKSPACE_BYTES = 96 * 1024**2
# Blocks of CUDA's allocator are larger than what is asked for, and not all can be used again.
_CUDA_FRAGMENTED_SHARE = 0.03
# The C library keeps freed blocks of up to 32 MiB for itself (glibc, ``M_MMAP_THRESHOLD``): once a
# prompt has passed, about as much as its results took, measured on models of 0.3 to 0.6 GB.
_CPU_KEPT_SHARE = 1.0
_CPU_MOST_KEPT_BYTES = 256 * 1024**2
# Blocks of matrices in the order that arithmetic wants, 5 MB a thread, and large pages that
# weights do not fill; a small model needs less than its results take.
_CPU_WORKSPACE_BYTES = 16 * 1024**2


def activation_bytes(
    shape: ModelShape,
    dtype: DType,
    tokens: int,
    chunk_tokens: int | None = None,
    *,
    feed_forward: int | None = None,
    attention: AttentionWork = FUSED,
    fixed_cache: bool = False,
) -> int:
    """Estimate what a prompt of `tokens` needs beside weights and KV cache, at its peak.

    Layers run one after the other, and of a layer its parts do: the most that one of them needs
    counts (transformers, ``LlamaDecoderLayer``; others are alike).

    - The whole pass keeps the embedded prompt, and the cosine and sine of each position.
    - A norm computes in float32 and holds two copies in it.
    - Attention holds the layer's input, the same normed, keys, values, and, while positions turn
      the queries, four of these.
    - The feed-forward block holds input, output and normed input beside what is within it.

    Then float32 logits of the last token, and a copy for sampling. In chunks the parts are of
    one chunk only; what comes into and goes out of the layer is of the whole prompt, and so are
    copies of the layer's keys and values, which grow by each chunk.

    A decoded token needs what a prompt of one token needs, so no plan decodes in more than this.

    Parameters
    ----------
    chunk_tokens
        Rows that pass a layer at once, None for all.
    feed_forward
        Elements a row needs in the feed-forward block; None for a dense one of the shape's width.
    attention
        Scores and masks, where a kernel does not do without.
    fixed_cache
        Whether keys and values have buffers of their final size. Else they are copied as they
        grow, and what is behind the window of a sliding layer goes with the first decoded token
        only (transformers, ``DynamicSlidingWindowLayer``).
    """
    item_bytes, float_bytes = ITEM_BYTES[dtype], ITEM_BYTES["float32"]
    hidden, head = shape.hidden_size, shape.head_dim
    queries, keys = shape.attention_heads * head, shape.kv_heads * head
    rows = tokens if chunk_tokens is None else min(tokens, chunk_tokens)
    norm = 2 * hidden + 2 * hidden * float_bytes // item_bytes
    repeated = 2 * queries if attention.repeats_keys and queries > keys else 0
    attend = max(norm, 2 * hidden + 4 * queries + 2 * keys + repeated)
    block = dense_feed_forward(shape) if feed_forward is None else feed_forward
    seen, masked = _columns(shape, tokens, rows, fixed_cache=fixed_cache)
    pairs_bytes = seen * attention.score_bytes + masked * attention.copy_bytes
    kept = hidden + 2 * head
    whole_bytes = tokens * max(attend * item_bytes + pairs_bytes, (3 * hidden + block) * item_bytes)
    if _attends_everywhere(shape):
        # Earlier keys and values, and those of all query heads where these share them.
        history = 2 * keys if fixed_cache or queries == keys else 2 * (keys + queries)
        attend_bytes = rows * (attend * item_bytes + pairs_bytes) + seen * history * item_bytes
        block_bytes = rows * (3 * hidden + block) * item_bytes
        chunk_bytes = tokens * 2 * hidden * item_bytes + max(attend_bytes, block_bytes)
    else:  # such layers take a prompt whole, their feed-forward block in chunks
        chunk_bytes = tokens * attend * item_bytes + rows * block * item_bytes
    layers_bytes = tokens * kept * item_bytes + min(whole_bytes, chunk_bytes)
    layers_bytes += tokens * tokens * attention.mask_bytes
    if not fixed_cache:
        layers_bytes += _behind_windows_bytes(shape, dtype, tokens, rows)
    making_bytes = tokens * tokens * attention.making_bytes + tokens * hidden * item_bytes
    ids_bytes = 2 * _ID_BYTES * tokens  # of the tokens and their positions
    return max(layers_bytes, making_bytes) + ids_bytes + 2 * float_bytes * shape.vocab_size


def _attends_everywhere(shape: ModelShape) -> bool:
    return all(
        kind.endswith("_attention") and kind != "linear_attention"
        for kind in shape.layer_types or ()
    )


def _columns(shape: ModelShape, tokens: int, rows: int, *, fixed_cache: bool) -> tuple[int, int]:
    """Most keys that a chunk attends to in any layer, and in one that slides."""
    if shape.sliding_window is None or fixed_cache:
        return tokens, tokens
    within = min(tokens, shape.sliding_window - 1 + rows)
    full, _ = attention_layers(shape)
    return tokens if full else within, within


def _behind_windows_bytes(shape: ModelShape, dtype: DType, tokens: int, rows: int) -> int:
    """Keys and values behind the windows of sliding layers, as the last chunk leaves them."""
    window = shape.sliding_window
    if window is None or tokens <= window:
        return 0
    _, sliding = attention_layers(shape)
    behind = min(tokens, window - 1 + rows) - window
    return sliding * behind * 2 * shape.kv_heads * shape.head_dim * ITEM_BYTES[dtype]


def whole_activation_bytes(
    resolved: ResolvedModel, dtype: DType, tokens: int, kind: DeviceKind
) -> int:
    """Estimate the same for transformers-generic, which passes a prompt whole."""
    if resolved.shape is None:
        return 0
    work_bytes = activation_bytes(
        resolved.shape,
        dtype,
        tokens,
        feed_forward=_feed_forward(resolved, resolved.shape),
        attention=attention_work(resolved, dtype, tokens, kind),
    )
    return _with_workspace(work_bytes, kind)


def streamed_activation_bytes(
    resolved: ResolvedModel, dtype: DType, tokens: int, chunk_tokens: int | None, kind: DeviceKind
) -> int:
    """Estimate the same for optimized-native: in chunks, over a cache of fixed size on CUDA."""
    if resolved.shape is None:
        return 0
    work_bytes = activation_bytes(
        resolved.shape,
        dtype,
        tokens,
        chunk_tokens,
        feed_forward=_feed_forward(resolved, resolved.shape),
        attention=attention_work(resolved, dtype, tokens, kind),
        fixed_cache=kind == "cuda",
    )
    return _with_workspace(work_bytes, kind)


def _with_workspace(work_bytes: int, kind: DeviceKind) -> int:
    if kind != "cuda":
        kept_bytes = min(int(work_bytes * _CPU_KEPT_SHARE), _CPU_MOST_KEPT_BYTES)
        return work_bytes + kept_bytes + min(work_bytes, _CPU_WORKSPACE_BYTES)
    return math.ceil(work_bytes * (1 + _CUDA_FRAGMENTED_SHARE)) + _CUDA_WORKSPACE_BYTES


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
    queries, keys = shape.attention_heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # All that a row passes through, so that there is some room for what no formula knows.
    passed = 4 * shape.hidden_size + 2 * queries + 2 * keys + _feed_forward(resolved, shape)
    row = passed * ITEM_BYTES[dtype]
    rows = _CHUNK_BYTES // row // LEAST_CHUNK_TOKENS * LEAST_CHUNK_TOKENS
    return max(LEAST_CHUNK_TOKENS, min(rows, _MOST_CHUNK_TOKENS))


def dense_feed_forward(shape: ModelShape) -> int:
    """Elements of a row in a dense feed-forward block: gate, up and their product."""
    return 3 * (shape.intermediate_size or 4 * shape.hidden_size)


def _feed_forward(resolved: ResolvedModel, shape: ModelShape) -> int:
    """Elements of a row in the wider of the dense block and the active experts.

    Each active expert takes a copy of the row and makes gate, up and their product in its own
    width; then its result is scaled and put in order, which holds four rows for each
    (transformers, ``grouped_mm_experts_forward``). The router's float32 scores come once more
    as probabilities. The width follows from the layer's parameters, three matrices
    ``[hidden, width]`` an expert.
    """
    profile, weights = resolved.capabilities, resolved.weights
    if weights is None:
        return dense_feed_forward(shape)
    hidden, family = shape.hidden_size, resolved.model_type or resolved.native_family
    if not profile.experts or not profile.active_experts:
        return _dense_block(shape, family, max(weights.layer_parameters, default=0))
    in_experts = max(weights.expert_parameters, default=0)
    if not in_experts:
        largest = max(weights.layer_parameters, default=0)
        in_experts = max(largest - attention_parameters(shape), 0)
    width = in_experts // (3 * hidden * profile.experts)
    made = _EXPERT_WIDTHS.get(family or "", 4)
    chosen = profile.active_experts * max(4 * hidden, hidden + made * width)
    return max(dense_feed_forward(shape), chosen + 2 * _SCORE_ELEMENTS * profile.experts)


def _dense_block(shape: ModelShape, family: str | None, layer_parameters: int) -> int:
    """Elements of a row in a dense block, which is wider where it is not three plain matrices.

    With gate and up in one matrix, both are held to the end (``Phi3MLP``). Without a gate the
    activation is a formula of several steps (``NewGELUActivation``), and families of that age
    keep learned positions and the attention's output (``GPT2Model``, ``GPT2Block``).
    """
    wide = 4 * (shape.intermediate_size or 4 * shape.hidden_size)
    in_block = layer_parameters - attention_parameters(shape)
    matrices = in_block / (shape.hidden_size * wide / 4)
    if layer_parameters and matrices < _GATED_MATRICES:
        return wide + 2 * shape.hidden_size
    return wide if family in _FUSED_GATE_FAMILIES else dense_feed_forward(shape)
