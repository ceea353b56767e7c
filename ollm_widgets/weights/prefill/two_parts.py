"""Attention of a chunk late in a prompt, by the kernel that serves whole prompts fastest.

cuDNN's attention aligns a causal mask at the upper left only, so that a chunk of rows that sees
all earlier ones too would go to the flash attention that torch brings: 0.90 s of a prompt of
32,768 tokens of Llama-3.1-8B on an H200, where cuDNN takes 0.49 s for the whole prompt. The
earlier keys need no mask, and the chunk's own are a square; the two results are joined by the
logarithms of their sums (Milakov and Gimelshein 2018, Dao et al. 2022).
"""

from __future__ import annotations

import torch
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention

# Where cuDNN's attention is ahead: Hopper and later.
_LEAST_CAPABILITY = (9, 0)
# Below this a chunk is launched faster than it is split.
_LEAST_ROWS = 256
# Heads that are joined at once, in float32.
_JOINED_HEADS = 8


def suits_two_parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float
) -> bool:
    """Whether `attend_in_two_parts` serves these, and is the faster way.

    Parameters
    ----------
    query
        ``[batch, heads, rows, dim]``, the last of the tokens of `key`.
    key, value
        ``[batch, kv heads, tokens, dim]``.
    """
    rows, tokens = query.shape[-2], key.shape[-2]
    if not query.is_cuda or dropout or torch.is_grad_enabled():
        return False
    if not _LEAST_ROWS <= rows < tokens:
        return False
    if torch.cuda.get_device_capability(query.device) < _LEAST_CAPABILITY:
        return False
    grouped = query.shape[1] != key.shape[1]
    return bool(can_use_cudnn_attention(SDPAParams(query, key, value, None, 0.0, False, grouped)))


def attend_in_two_parts(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """Causal attention, aligned at the lower right, ``[batch, heads, rows, dim]``."""
    rows = query.shape[-2]
    past, past_sum = _attend(query, key[..., :-rows, :], value[..., :-rows, :], scale, causal=False)
    own, own_sum = _attend(query, key[..., -rows:, :], value[..., -rows:, :], scale, causal=True)
    share = torch.sigmoid(own_sum - past_sum)  # [batch, heads, rows, 1]
    for first in range(0, query.shape[1], _JOINED_HEADS):
        heads = slice(first, first + _JOINED_HEADS)
        joined = torch.lerp(past[:, heads].float(), own[:, heads].float(), share[:, heads])
        past[:, heads].copy_(joined)
    return past


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    *,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What cuDNN gives, and the logarithms of its sums ``float32 [batch, heads, rows, 1]``."""
    output, log_sum, *_others = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, causal, False, scale=scale
    )
    return output, log_sum.view(*query.shape[:-1], 1)
