"""A mask that attention uses as it is, and that is only built for anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

# What a mask answers without being built.
_ABOUT_IT = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout"})
_ASKS = frozenset({"size", "dim", "numel", "is_floating_point", "__len__"})


class LazyMask(torch.Tensor):
    """A mask of some shape, of which nothing is in memory until something reads it.

    `scaled_dot_product_attention` gets what a subclass makes of it; any other use sees an ordinary
    tensor. Made by ``one.expand(shape).as_subclass(...)``, with `_built` set to None.
    """

    _built: torch.Tensor | None

    def build(self) -> torch.Tensor:
        """Make the whole as a plain tensor."""
        raise NotImplementedError

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """`scaled_dot_product_attention` under this mask, with its other options."""
        raise NotImplementedError

    def built(self) -> torch.Tensor:
        """The whole as a plain tensor, which is made once."""
        if self._built is None:
            self._built = self.build()
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
        options = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            mask = options.get("attn_mask")
            if isinstance(mask, LazyMask):
                del options["attn_mask"]
                return mask.attend(*args, **options)
        with torch._C.DisableTorchFunctionSubclass():
            if _only_asks(func):
                return func(*args, **options)
            return func(
                *map(_plain, args), **{name: _plain(value) for name, value in options.items()}
            )


def _only_asks(func: Callable[..., Any]) -> bool:
    name = func.__name__
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _ABOUT_IT
    return name in _ASKS


def _plain(value: Any) -> Any:
    if isinstance(value, LazyMask):
        return value.built()
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value
