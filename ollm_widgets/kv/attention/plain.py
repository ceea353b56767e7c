"""Attention of one query over the hot and the cold tokens of a layer, in torch."""

from __future__ import annotations

import torch
from torch.nn import functional


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    scale: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend to all of `keys`, or to what `mask` shows of them.

    Parameters
    ----------
    query
        ``[batch, query heads, 1, width]``.
    keys, values
        ``[batch, heads, tokens, width]``; a head serves as many query heads as follow each other.
    mask
        bool ``[batch or 1, 1, 1, tokens]``.

    Returns
    -------
    torch.Tensor
        ``[batch, 1, query heads, value width]``.
    """
    batch, query_heads, _, width = query.shape
    # The query heads of a group become rows of one query.
    grouped = query.reshape(batch, keys.shape[1], -1, width)
    out = functional.scaled_dot_product_attention(
        grouped, keys, values, attn_mask=mask, scale=scale
    )
    return out.reshape(batch, 1, query_heads, values.shape[-1])
