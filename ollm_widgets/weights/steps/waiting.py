"""Refusing, before it happens, what makes the host wait for the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Their result's value or shape is only known once the device has got there.
_WAITING = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::_unique2",
        "aten::allclose",
        "aten::bincount",
        "aten::equal",
        "aten::is_nonzero",
        "aten::item",
        "aten::masked_select",
        "aten::nonzero",
        "aten::repeat_interleave.Tensor",
        "aten::unique_consecutive",
        "aten::unique_dim",
    }
)
_INDEXING = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index"})


class CannotCapture(Exception):  # noqa: N818 - a reason, not a fault
    """Why a step cannot be captured, as a person reads it."""


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises `CannotCapture` instead of an operation that would end a capture.

    CUDA answers such an operation by invalidating the capture, after which torch's allocator
    and generators are left half-way; so nothing of the kind may reach it. Concerns the calling
    thread only.

    Parameters
    ----------
    device
        The device not to wait for.
    deep
        Look into operations that consist of others too, which inference mode does not show of
        itself. Not for a capture: it may take other kernels than torch itself.
    """

    def __init__(self, device: torch.device, *, deep: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = device.type
        self._deep = deep

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Look at one operation, then run it."""
        kwargs = kwargs or {}
        self._check(func._schema, args, kwargs)
        if self._deep:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)

    def _check(self, schema: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        name = schema.name
        if name in _WAITING or f"{name}.{schema.overload_name}" in _WAITING:
            if any(map(self._here, _tensors(args))) and kwargs.get("output_size") is None:
                raise CannotCapture(f"the model waits for the device in each step ({name})")
        elif name in _INDEXING:
            if self._here(args[0]) and not all(map(self._indexes, _tensors(args[1]))):
                raise CannotCapture(f"the model selects by a mask or from the host ({name})")
        elif name == "aten::lift_fresh":
            if self._here(args[0]):
                raise CannotCapture("the model makes a tensor out of Python numbers in each step")
        elif name == "aten::copy_":
            eventually = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            if self._here(args[0]) != self._here(args[1]) and not eventually:
                raise CannotCapture("the model copies between host and device in each step")
        elif name == "aten::_to_copy":
            device = kwargs.get("device")
            if device is not None and self._here(args[0]) != (
                torch.device(device).type == self._kind
            ):
                raise CannotCapture("the model copies between host and device in each step")

    def _here(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == self._kind

    def _indexes(self, index: torch.Tensor) -> bool:
        return self._here(index) and index.dtype not in (torch.bool, torch.uint8)


class NumbersOnDevice(TorchFunctionMode):
    """Has `torch.tensor(number, device=...)` filled in on the device instead of copied to it."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Look at one call, then make it."""
        kwargs = kwargs or {}
        if (
            func is torch.tensor
            and len(args) == 1
            and isinstance(args[0], bool | int | float)
            and kwargs.get("device") is not None
        ):
            return torch.full((), args[0], **kwargs)
        return func(*args, **kwargs)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
