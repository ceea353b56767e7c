"""A causal mask that reaches the attention kernel as a property, not as a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from ollm_widgets.kv.lazy_mask import LazyMask
from ollm_widgets.weights.prefill.two_parts import attend_in_two_parts, suits_two_parts


class CausalRows(LazyMask):
    """A causal mask ``[1, 1, rows, columns]`` that is only built where a kernel needs it.

    Row ``i`` sees the first ``visible - rows + i + 1`` columns, `visible` of all. Attention by
    `scaled_dot_product_attention` gets it as a property of the kernel instead (flash attention
    aligns a causal mask at the lower right); any other use sees an ordinary bool tensor.
    """

    visible: int
    attended: bool
    """Whether an attention came to use it as it is."""

    @staticmethod
    def of(rows: int, columns: int, visible: int, device: torch.device) -> CausalRows:
        """Make the mask of a chunk of `rows` tokens, the last of `visible` ones."""
        one = torch.ones((), dtype=torch.bool, device=device).expand(1, 1, rows, columns)
        mask = one.as_subclass(CausalRows)
        mask.visible, mask.attended, mask._built = visible, False, None
        return mask

    def build(self) -> torch.Tensor:
        """Make the mask as a plain bool tensor ``[1, 1, rows, columns]``."""
        rows, columns = self.shape[-2:]
        dense = torch.ones(rows, columns, dtype=torch.bool, device=self.device)
        return dense.tril_(self.visible - rows)[None, None]

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """`scaled_dot_product_attention` over the visible keys, aligned at the lower right."""
        rows, visible = self.shape[-2], self.visible
        self.attended = self._built is None
        # One row sees every visible key; the query may then hold the heads of a group as its rows.
        bias = None if rows == 1 else causal_lower_right(rows, visible)
        key, value = key[..., :visible, :], value[..., :visible, :]
        if suits_two_parts(query, key, value, options.get("dropout_p", 0.0)):
            return attend_in_two_parts(query, key, value, options.get("scale"))
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            parameters = SDPAParams(query, key, value, None, 0.0, False, True)
            if can_use_flash_attention(parameters):
                options["enable_gqa"] = True
            else:
                key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, **options)


class WholeGroups:
    """Keeps transformers from copying keys once for each query head of a group.

    Its sdpa attention does so wherever there is a mask, which for a chunk late in a long prompt
    takes several times the chunk's own memory. A `CausalRows` mask attends by group instead.

    Parameters
    ----------
    layer
        The layer whose attention is meant.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._attentions = [
            part
            for part in layer.modules()
            if getattr(part, "num_key_value_groups", 1) != 1
            # Only where nothing but the attention function reads it.
            and "num_key_value_groups" not in inspect.unwrap(type(part).forward).__code__.co_names
        ]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Let the attention see groups of one query head within the context."""
        before = [part.num_key_value_groups for part in self._attentions]
        try:
            for part in self._attentions:
                part.num_key_value_groups = 1  # type: ignore[assignment]
            yield
        finally:
            for part, groups in zip(self._attentions, before, strict=True):
                part.num_key_value_groups = groups
