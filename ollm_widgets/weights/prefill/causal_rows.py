"""A causal mask that reaches the attention kernel as a property, not as a tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from ollm_widgets.weights.prefill.two_parts import attend_in_two_parts, suits_two_parts

# Attributes that a mask answers without being built.
_ABOUT_IT = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout"})
_ASKS = frozenset({"size", "dim", "numel", "is_floating_point", "__len__"})


class CausalRows(torch.Tensor):
    """A causal mask ``[1, 1, rows, columns]`` that is only built where a kernel needs it.

    Row ``i`` sees the first ``visible - rows + i + 1`` columns, `visible` of all. Attention by
    `scaled_dot_product_attention` gets it as a property of the kernel instead (flash attention
    aligns a causal mask at the lower right); any other use sees an ordinary bool tensor.
    """

    visible: int
    attended: bool
    """Whether an attention came to use it as it is."""
    _built: torch.Tensor | None

    @staticmethod
    def of(rows: int, columns: int, visible: int, device: torch.device) -> CausalRows:
        """Make the mask of a chunk of `rows` tokens, the last of `visible` ones."""
        one = torch.ones((), dtype=torch.bool, device=device).expand(1, 1, rows, columns)
        mask = one.as_subclass(CausalRows)
        mask.visible, mask.attended, mask._built = visible, False, None
        return mask

    def built(self) -> torch.Tensor:
        """The mask as a plain bool tensor ``[1, 1, rows, columns]``."""
        if self._built is None:
            rows, columns = self.shape[-2:]
            dense = torch.ones(rows, columns, dtype=torch.bool, device=self.device)
            self._built = dense.tril_(self.visible - rows)[None, None]
        return self._built

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer questions about the mask, attend with it, or build it for anything else."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _attend(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            if _only_asks(func):
                return func(*args, **kwargs)
            return func(
                *map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()}
            )


def _only_asks(func: Callable[..., Any]) -> bool:
    name = func.__name__
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _ABOUT_IT
    return name in _ASKS


def _plain(value: Any) -> Any:
    if isinstance(value, CausalRows):
        return value.built()
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attn_mask: CausalRows,
    **options: Any,
) -> torch.Tensor:
    """`scaled_dot_product_attention` over the visible keys, aligned at the lower right."""
    rows, visible = attn_mask.shape[-2], attn_mask.visible
    attn_mask.attended = attn_mask._built is None
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
