"""Has an unmodified model's decode steps use our attention, while a context is open.

transformers asks for attention and masks by a name in the model's config. A layer is served for
what it is given, not for its model's name: anything that our kernels do not know goes to the
attention that the model had, over the whole buffer and with a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ollm_widgets.kv.attention.plain import attend
from ollm_widgets.weights.steps.waiting import CannotCapture

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ollm_widgets.weights.steps.fixed_cache import FixedCache, FixedLayer

_NAME = "ollm_pages"
_STOCK = "sdpa"
# What a model may hand its attention without changing what that computes for a single token of a
# causal model. Masks follow from `sliding_window`; here it only bounds what is read.
_HARMLESS = frozenset(
    {
        "cache_position",
        "is_causal",
        "logits_to_keep",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "sliding_window",
        "use_cache",
    }
)


class Attending:
    """Serves the layers of one cache.

    Parameters
    ----------
    cache
        Whose layers are read; any other attention goes to the stock one.
    """

    def __init__(self, cache: FixedCache) -> None:
        self.cache = cache
        self._served: set[int] = set()

    def layer_of(self, keys: torch.Tensor, values: torch.Tensor) -> FixedLayer | None:
        """The layer that has handed out these very tensors."""
        for layer in self.cache.fixed_layers:
            if layer.keys is keys and layer.values is values:
                self._served.add(id(layer))
                return layer
        return None

    def check(self) -> None:
        """Make sure that every layer's attention came here.

        Raises
        ------
        CannotCapture
            If one did not: it has read what it should not have.
        """
        layers = [layer for layer in self.cache.fixed_layers if layer.is_initialized]
        if any(id(layer) not in self._served for layer in layers):
            raise CannotCapture("its attention cannot be replaced by name")


def why_not(model: PreTrainedModel) -> str:
    """Why a model's attention cannot be replaced; empty where it can."""
    used = model.config.get_text_config(decoder=True)._attn_implementation
    return "" if used == _STOCK else f"its attention is {used}, not {_STOCK}"


@contextmanager
def attending(model: PreTrainedModel, cache: FixedCache) -> Iterator[Attending]:
    """Serve the decode steps of `model` over `cache`; only for models that `why_not` allows.

    Yields
    ------
    Attending
        Whose `check` tells after a step whether it was right to do so.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _mask)
    config = model.config.get_text_config(decoder=True)
    active = Attending(cache)
    token = _active.set(active)
    # By this form of the name the parts of the config keep theirs.
    config._attn_implementation = {"": _NAME}
    try:
        yield active
    finally:
        config._attn_implementation = {"": _STOCK}
        _active.reset(token)


_active: ContextVar[Attending | None] = ContextVar("ollm_attending", default=None)


def _mask(
    *, q_length: int, mask_function: Any = None, attention_mask: Any = None, **kwargs: Any
) -> Any:
    """No mask where causality is all: how many tokens there are is the layer's to know."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    mask_function = mask_function or causal_mask_function
    causal = attention_mask is None and mask_function is causal_mask_function
    if _stepping(q_length) and causal:
        return None
    return sdpa_mask(
        q_length=q_length, mask_function=mask_function, attention_mask=attention_mask, **kwargs
    )


def _stepping(queries: int) -> bool:
    active = _active.get()
    return active is not None and active.cache.clock.ticking and queries == 1


@dataclass(frozen=True, slots=True)
class _Call:
    """What a model asks of its attention."""

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: Any
    dropout: float
    scaling: Any
    others: dict[str, Any]

    @property
    def scale(self) -> float:
        return float(self.query.shape[-1] ** -0.5 if self.scaling is None else self.scaling)

    def by_stock(self, mask: torch.Tensor | None) -> tuple[torch.Tensor, None]:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            self.module,
            self.query,
            self.key,
            self.value,
            mask,
            dropout=self.dropout,
            scaling=self.scaling,
            **self.others,
        )
        return out

    def unfit(self) -> str:
        """What of it our attention does not do; empty where it does all."""
        query, key, mask = self.query, self.key, self.mask
        unknown = [
            name
            for name, given in self.others.items()
            if given is not None and given is not False and name not in _HARMLESS
        ]
        checks = (
            (bool(unknown), f"attention is given {', '.join(unknown)}"),
            (self.dropout != 0, "attention drops weights out"),
            (query.shape[1] % key.shape[1] != 0, "its query heads do not divide by key heads"),
            (query.dtype != key.dtype, f"queries are {query.dtype}, keys {key.dtype}"),
            (
                mask is not None and (mask.dtype is not torch.bool or mask.shape[1] != 1),
                "its mask is not one of booleans for all heads",
            ),
            (isinstance(self.scaling, torch.Tensor), "its scale is a tensor"),
        )
        return next((reason for wrong, reason in checks if wrong), "")


def _attention(  # noqa: PLR0917 - called by transformers
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    call = _Call(module, query, key, value, attention_mask, dropout, scaling, kwargs)
    active = _active.get()
    if active is None or not _stepping(query.shape[2]):
        return call.by_stock(attention_mask)
    layer = active.layer_of(key, value)
    if layer is None:
        if attention_mask is None:
            raise CannotCapture("its keys are changed between cache and attention")
        return call.by_stock(attention_mask)
    return _attend(call, layer)


def _attend(call: _Call, layer: FixedLayer) -> tuple[torch.Tensor, None]:
    unfit, mask = call.unfit(), call.mask
    if call.key.device != layer.clock.position.device:
        unfit = "its layers are on several devices"
    if not unfit and layer.clock.by_kernel:
        window = call.others.get("sliding_window")
        bounded = layer.is_sliding and mask is not None and type(window) is int
        if mask is not None and mask.stride(-1) != 1:
            mask = mask.contiguous()
        query = call.query if call.query.stride(-1) == 1 else call.query.contiguous()
        window = window if bounded else None
        return layer.attend(query, scale=call.scale, mask=mask, window=window), None
    visible = layer.visible()
    if visible is None:
        return call.by_stock(layer.causal_mask() if mask is None else mask)
    if unfit:
        raise CannotCapture(f"nothing reads its pages: {unfit}")
    if mask is not None:
        mask = mask[..., : visible[0].shape[2]]
    return attend(call.query, *visible, scale=call.scale, mask=mask), None
