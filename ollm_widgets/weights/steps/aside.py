"""Keys, values and what steps keep, in host memory for a while.

Only what is filled of a cache moves. It comes back to other addresses: what was captured over it
has to be captured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import cache_utils

from ollm_widgets.kv.window.ring import RingLayer
from ollm_widgets.weights.copy_streams import CopyStreams
from ollm_widgets.weights.host_copies import locked_buffer
from ollm_widgets.weights.steps.fixed_cache import FixedCache, FixedHybridLayer, FixedLayer

if TYPE_CHECKING:
    from transformers import Cache

# What transformers quantizes keeps part of it in forms of its own. The first was split in two.
_QUANTIZED = tuple(
    getattr(cache_utils, name)
    for name in ("QuantizedLayer", "BaseQuantizedLayer")
    if hasattr(cache_utils, name)
)
# Exact types: what derives from them may keep more than is known here.
_OURS = (FixedLayer, FixedHybridLayer, RingLayer)
_ALIGNMENT_BYTES = 512


def can_leave(cache: Cache) -> bool:
    """Whether all that a cache holds is in tensors that are known here."""
    return all(
        type(layer) in _OURS
        or (type(layer).__module__ == cache_utils.__name__ and not isinstance(layer, _QUANTIZED))
        for layer in cache.layers
    )


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor that leaves.

    Parameters
    ----------
    holder, key
        The dictionary or list that has it.
    tokens
        How many of its tokens, in the third dimension, are filled; None moves all of it.
    """

    holder: Any
    key: Any
    tokens: int | None = None

    @property
    def held(self) -> torch.Tensor:
        tensor: torch.Tensor = self.holder[self.key]
        return tensor

    def filled(self, whole: torch.Tensor) -> torch.Tensor:
        """The part of `whole` that matters."""
        return whole if self.tokens is None else whole[:, :, : self.tokens]


@dataclass(frozen=True, slots=True)
class _Aside:
    """A tensor that has left.

    Parameters
    ----------
    tensor
        Where it was.
    host
        What matters of it.
    shape, device, inference
        What the whole was.
    """

    tensor: _Tensor
    host: torch.Tensor
    shape: torch.Size
    device: torch.device
    inference: bool

    def is_there(self, other: torch.Tensor) -> bool:
        """Whether its holder has `other` there: nobody has emptied the cache meanwhile."""
        holder, key = self.tensor.holder, self.tensor.key
        found = holder.get(key) if isinstance(holder, dict) else holder[key]
        return found is other


class SetAside:
    """What caches and steps hold on one kind of device, while it is in host memory.

    Parameters
    ----------
    caches
        Each of which `can_leave`.
    others
        Objects whose own tensors leave too.
    kind
        Type of the devices that they leave: ``cuda``.

    Raises
    ------
    OutOfMemory
        If host memory does not hold it; nothing has moved.
    """

    def __init__(self, caches: Iterable[Cache], others: Iterable[object], kind: str) -> None:
        tensors = [each for cache in caches for each in _in_cache(cache, kind)]
        tensors += [each for other in others for each in _tensors(vars(other), kind, deep=False)]
        parts = [each.filled(each.held) for each in tensors]
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + -(-part.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
        self._buffer = locked_buffer(starts[-1], locked=kind == "cuda" and bool(parts))
        try:
            hosts = self._copied(parts, starts)
        except BaseException:
            self._buffer.close()
            raise
        self._aside: list[_Aside] = []
        self._back: list[torch.Tensor] = []
        for tensor, host in zip(tensors, hosts, strict=True):
            whole = tensor.held
            self._aside.append(
                _Aside(tensor, host, whole.shape, whole.device, whole.is_inference())
            )
            tensor.holder[tensor.key] = host

    def _copied(self, parts: Sequence[torch.Tensor], starts: Sequence[int]) -> list[torch.Tensor]:
        """Copies of `parts` in the buffer, from where each starts."""
        streams = CopyStreams()
        hosts = []
        try:
            for part, start in zip(parts, starts, strict=False):
                raw = self._buffer.tensor[start : start + part.nbytes]
                hosts.append(raw.view(part.dtype).view(part.shape))
                streams.copy(hosts[-1], part)
        finally:
            streams.wait()
        return hosts

    @property
    def size_bytes(self) -> int:
        """Bytes in host memory."""
        return self._buffer.size_bytes

    def come_back(self, streams: CopyStreams) -> None:
        """Enqueue the copies back; what was emptied or replaced meanwhile is left alone.

        Raises
        ------
        torch.OutOfMemoryError
            If there is no room; everything is in host memory still.
        """
        new = []
        for each in self._aside:
            # What is made in inference mode could not be written to outside of it.
            with torch.inference_mode(each.inference):
                # Zeros, as what a mask hides is still multiplied by 0.
                make = torch.empty if each.tensor.tokens is None else torch.zeros
                new.append(make(each.shape, dtype=each.host.dtype, device=each.device))
        with torch.inference_mode():
            for each, whole in zip(self._aside, new, strict=True):
                if each.is_there(each.host):
                    streams.copy(each.tensor.filled(whole), each.host)
                    each.tensor.holder[each.tensor.key] = whole
        self._back = new

    def leave_again(self) -> None:
        """Undo `come_back`; its copies have to be over."""
        for each, whole in zip(self._aside, self._back, strict=False):
            if each.is_there(whole):
                each.tensor.holder[each.tensor.key] = each.host
        self._back = []

    def close(self) -> None:
        """Let the host memory go; nothing may look at it any more."""
        self._aside, self._back = [], []
        self._buffer.close()


def _in_cache(cache: Cache, kind: str) -> Iterator[_Tensor]:
    if isinstance(cache, FixedCache):
        yield from _tensors(vars(cache.clock), kind)
    for layer in cache.layers:
        tokens = cache.tokens if isinstance(cache, FixedCache) else None
        for each in _tensors(vars(layer), kind):
            of_tokens = each.holder is vars(layer) and each.key in ("keys", "values")
            fixed = isinstance(layer, FixedLayer) and of_tokens
            yield _Tensor(each.holder, each.key, tokens if fixed else None)


def _tensors(holder: Any, kind: str, *, deep: bool = True) -> Iterator[_Tensor]:
    """The tensors in a dictionary or list, and in those that it holds."""
    items = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in items:
        if isinstance(value, torch.Tensor):
            if value.device.type == kind:
                yield _Tensor(holder, key)
        elif deep and isinstance(value, dict | list):
            yield from _tensors(value, kind)
