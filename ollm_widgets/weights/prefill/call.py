"""The arguments of one call of a decoder layer, and those of a chunk of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# What is cut along the sequence, and at which dimension, counted from the end.
_SEQUENCE_DIM = {"position_ids": -1, "position_embeddings": -2, "per_layer_input": -2}
# What transformers' decoder layers take beside these and the cache, which changes nothing as
# long as it is a plain value. A layer that takes anything else may look beyond a chunk.
_PLAIN = frozenset(
    {"use_cache", "output_attentions", "output_router_logits", "return_dict", "head_mask"}
    | {"layer_past", "past_key_values", "alibi", "encoder_hidden_states"}
    | {"encoder_attention_mask", "cache_position"}
)
_KNOWN = {"hidden_states", "attention_mask", "shared_kv_states"} | _SEQUENCE_DIM.keys() | _PLAIN


def unknown_arguments(layer: nn.Module) -> list[str]:
    """Names of what a layer's forward takes and nobody here knows how to cut."""
    return [
        one.name
        for one in inspect.signature(layer.forward).parameters.values()
        if one.name not in _KNOWN and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]


@dataclass(frozen=True, slots=True)
class LayerCall:
    """The arguments of one call of a decoder layer, by what they are.

    Parameters
    ----------
    hidden
        Hidden states ``[batch, seq, hidden]``.
    cache
        The transformers cache that it reads and writes.
    mask
        Attention mask, ``[batch or 1, heads or 1, seq, columns]``, or None.
    shared
        Keys that layers leave to others; None where the model has no such thing.
    arguments
        All by name, these included.
    """

    hidden: torch.Tensor
    cache: Any
    mask: Any
    shared: Any
    arguments: Mapping[str, Any]

    @classmethod
    def of(
        cls, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> LayerCall | str:
        """Sort the arguments; a string says why they cannot be cut."""
        from transformers import Cache

        arguments: dict[str, Any] = {}
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= value
            else:
                arguments[name] = value
        caches = [value for value in arguments.values() if isinstance(value, Cache)]
        if len(caches) != 1:
            return "it runs without a cache"
        if "hidden_states" not in arguments:
            return "its forward does not name what it takes"
        length = arguments["hidden_states"].shape[-2]
        for name, value in arguments.items():
            dim = _SEQUENCE_DIM.get(name)
            cuttable = _is_plain(name, value) if dim is None else _cuttable(value, dim, length)
            special = name in ("hidden_states", "attention_mask", "shared_kv_states")
            if not special and value is not caches[0] and not cuttable:
                return f"it was given {name}, which may reach beyond a chunk"
        return cls(
            hidden=arguments["hidden_states"],
            cache=caches[0],
            mask=arguments.get("attention_mask"),
            shared=arguments.get("shared_kv_states"),
            arguments=arguments,
        )

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.hidden.shape[1]

    def cut(self, start: int, end: int, mask: torch.Tensor | None) -> dict[str, Any]:
        """The arguments of the chunk of tokens `start` to `end`, which has its own mask."""
        chunk = dict(self.arguments)
        # Layers may view their input in other shapes, which needs it in one piece.
        chunk["hidden_states"] = self.hidden[:, start:end].contiguous()
        chunk["attention_mask"] = mask
        for name, dim in _SEQUENCE_DIM.items():
            if name in chunk:
                chunk[name] = _cut(chunk[name], dim, self.length, start, end)
        return chunk


def _is_plain(name: str, value: Any) -> bool:
    if (name.startswith("output_") and value) or (name == "is_causal" and value is False):
        return False
    return value is None or isinstance(value, bool | int | float | str)


def _cuttable(value: Any, dim: int, length: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() >= -dim and value.shape[dim] in (1, length)
    if isinstance(value, tuple | list):
        return all(_cuttable(one, dim, length) for one in value)
    if isinstance(value, Mapping):
        return all(_cuttable(one, dim, length) for one in value.values())
    return value is None


def _cut(value: Any, dim: int, length: int, start: int, end: int) -> Any:
    if isinstance(value, torch.Tensor):
        if value.shape[dim] != length:
            return value
        return value.narrow(dim, start, end - start).contiguous()
    if isinstance(value, tuple | list):
        return type(value)(_cut(one, dim, length, start, end) for one in value)
    if isinstance(value, Mapping):
        return {name: _cut(one, dim, length, start, end) for name, one in value.items()}
    return value
