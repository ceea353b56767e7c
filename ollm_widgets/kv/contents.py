"""What a cache holds, read and written without knowing which kind of cache it is.

A layer of this package that keeps every token has ``read_tokens`` and ``append_tokens``, and
``reserve_tokens`` if it keeps them in one place; transformers' own layers are served here. A
layer holds one of three things, or two of them:

- keys and values of every token: ranges can be read, and new ones appended;
- keys and values of the last tokens (a sliding window);
- states that stand for all tokens so far (linear attention).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers.cache_utils import (
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from ollm_widgets.errors import KVStrategyError

if TYPE_CHECKING:
    from transformers import Cache

# Exact types: what derives from them may keep more than is known here.
_GROWING = (DynamicLayer, DynamicIndexedLayer, LinearAttentionAndFullAttentionLayer)
_SLIDING = (DynamicSlidingWindowLayer, LinearAttentionAndSlidingWindowAttentionLayer)


def require_readable(cache: Cache) -> None:
    """Refuse a cache with a layer whose contents are not known here.

    Raises
    ------
    KVStrategyError
        Naming the layer.
    """
    if isinstance(cache, EncoderDecoderCache):
        raise KVStrategyError(
            "The cache of an encoder and decoder depends on the encoder's input, not only on "
            "tokens.",
            hint="Use the lifecycle runtime-scoped.",
        )
    for number, layer in enumerate(_layers(cache)):
        kind = type(layer)
        if (
            not _keeps_every_token(layer)
            and kind not in _SLIDING
            and kind is not LinearAttentionLayer
            and kind.__name__ != "DummyLayer"
        ):
            raise KVStrategyError(
                f"Layer {number} of the cache is a {kind.__name__}, whose contents cannot be read.",
                hint="Use the lifecycle runtime-scoped.",
            )


def readable_layers(cache: Cache) -> list[int]:
    """Numbers of the layers that keep every token."""
    return [number for number, layer in enumerate(_layers(cache)) if _keeps_every_token(layer)]


def sliding_layers(cache: Cache) -> dict[int, int]:
    """How many tokens each layer keeps that keeps the last ones only: its window less one."""
    return {
        number: int(layer.sliding_window) - 1
        for number, layer in enumerate(_layers(cache))
        if type(layer) in _SLIDING
    }


def grows_in_place(cache: Cache, layer: int) -> bool:
    """Whether an empty layer takes tensors as its own, without a copy."""
    return type(_layer(cache, layer)) in _GROWING


def held_tokens(cache: Cache, layer: int) -> int:
    """Tokens that a layer with keys and values has seen; 0 for one that was never used."""
    found = _layer(cache, layer)
    return int(found.get_seq_length())


def read_tokens(
    cache: Cache, layer: int, start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of the tokens from `start` to `stop`.

    Parameters
    ----------
    cache
        Any whose layers are known here.
    layer
        One of `readable_layers`, or of `sliding_layers` for tokens within its window.
    start, stop
        Tokens, counted from the sequence's first.

    Returns
    -------
    keys, values
        ``[batch, heads, stop - start, width]``, where the layer keeps them; perhaps views.

    Raises
    ------
    ValueError
        For tokens that the layer does not hold.
    """
    found = _layer(cache, layer)
    if hasattr(found, "read_tokens"):
        return cast("tuple[torch.Tensor, torch.Tensor]", found.read_tokens(start, stop))
    end = held_tokens(cache, layer)
    first = end - found.keys.shape[-2] if end else 0
    if not first <= start <= stop <= end:
        raise ValueError(f"Layer {layer} holds the tokens {first} to {end}, not {start} to {stop}.")
    span = slice(start - first, stop - first)
    return found.keys[:, :, span], found.values[:, :, span]


def append_tokens(cache: Cache, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Add the keys and values of further tokens, as if attention had.

    Parameters
    ----------
    cache
        Any whose layers are known here.
    layer
        One of `readable_layers`, or a sliding one, which keeps the last of them.
    keys, values
        ``[batch, heads, tokens, width]``, on the device on which the layer computes. They belong
        to the cache from now on.
    """
    found = _layer(cache, layer)
    if hasattr(found, "append_tokens"):
        found.append_tokens(keys, values)
    elif type(found) in _GROWING and not found.get_seq_length():
        # `update` would copy them behind an empty tensor.
        _begin(found, keys, values)
    else:
        found.update(keys, values)


def reserve_tokens(
    cache: Cache, layer: int, keys: torch.Tensor, values: torch.Tensor, tokens: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Have a layer hold further tokens that are written to where it keeps them.

    Whoever asks writes them before anything reads the layer, or empties the cache.

    Parameters
    ----------
    cache, layer
        One of `readable_layers`.
    keys, values
        ``[batch, heads, 0, width]``: of no token, on the device on which the layer computes.
    tokens
        How many.

    Returns
    -------
    keys, values
        ``[batch, heads, tokens, width]``; None of a layer that takes copies, or takes tensors
        as its own, with `append_tokens`.
    """
    found = _layer(cache, layer)
    if not hasattr(found, "reserve_tokens"):
        return None
    reserved = found.reserve_tokens(keys, values, tokens)
    return cast("tuple[torch.Tensor, torch.Tensor] | None", reserved)


def place_window(
    cache: Cache, layer: int, keys: torch.Tensor, values: torch.Tensor, tokens: int
) -> None:
    """Have a sliding layer that is empty hold the last of `tokens` tokens.

    Parameters
    ----------
    cache, layer
        One of `sliding_layers`.
    keys, values
        ``[batch, heads, n, width]`` of the last n; n is the smaller of `tokens` and what the
        layer keeps. They belong to the cache from now on.
    tokens
        How many it has seen.
    """
    found = _layer(cache, layer)
    _begin(found, keys, values)
    found.cumulative_length = tokens


def has_special_state(cache: Cache) -> bool:
    """Whether something stands for all tokens so far, sliding windows aside."""
    return any(
        (
            isinstance(layer, LinearAttentionCacheLayerMixin)
            and any(
                layer.is_conv_states_initialized[slot]
                or layer.is_recurrent_states_initialized[slot]
                for slot in _slots(layer)
            )
        )
        or (isinstance(layer, DynamicIndexedLayer) and layer.is_indexer_initialized)
        for layer in _layers(cache)
    )


def special_state(cache: Cache, *, sliding: bool = True) -> dict[str, torch.Tensor]:
    """Copies of everything that is kept beside the keys and values of every token.

    Parameters
    ----------
    cache
        Any whose layers are known here.
    sliding
        Windows of sliding layers too.

    Returns
    -------
    dict
        By stable names, ``"<layer>.<what>"``; empty where every layer keeps every token.
    """
    state: dict[str, torch.Tensor] = {}
    for number, layer in enumerate(_layers(cache)):
        if sliding and type(layer) in _SLIDING and layer.is_initialized:
            state |= _named(number, _window_state(layer))
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            state |= _named(number, _linear_state(layer))
        if isinstance(layer, DynamicIndexedLayer) and layer.is_indexer_initialized:
            state |= _named(number, _indexer_state(layer))
    return state


def restore_special_state(cache: Cache, state: Mapping[str, torch.Tensor]) -> None:
    """Put back what `special_state` gave, into layers that are empty.

    Parameters
    ----------
    cache
        Of the same model; tokens of layers that keep every one are appended separately.
    state
        On the devices on which the layers compute.

    Raises
    ------
    ValueError
        When a layer has no place for its part of the state.
    """
    of_layer: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        before, _, what = name.partition(".")
        of_layer.setdefault(int(before), {})[what] = tensor
    for number, parts in of_layer.items():
        layer = _layer(cache, number)
        taken: set[str] = set()
        if type(layer) in _SLIDING and "seen" in parts:
            place_window(cache, number, parts["keys"], parts["values"], int(parts["seen"]))
            taken |= {"keys", "values", "seen"}
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            taken |= set(_restore_linear(layer, parts))
        if isinstance(layer, DynamicIndexedLayer):
            taken |= set(_restore_indexer(layer, parts))
        if taken != set(parts):
            left = ", ".join(sorted(set(parts) - taken))
            raise ValueError(f"Layer {number}, a {type(layer).__name__}, does not keep {left}.")


def _keeps_every_token(layer: Any) -> bool:
    return type(layer) in _GROWING or (
        hasattr(layer, "read_tokens") and hasattr(layer, "append_tokens")
    )


def _layers(cache: Cache) -> list[Any]:
    return cache.layers


def _layer(cache: Cache, number: int) -> Any:
    """A layer; a cache that makes its layers when they are used makes it now."""
    replicate = getattr(cache, "layer_class_to_replicate", None)
    while replicate is not None and len(cache.layers) <= number:
        cache.layers.append(replicate())
    return cache.layers[number]


def _begin(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> None:
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values


def _named(number: int, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{number}.{what}": tensor for what, tensor in state.items()}


def _window_state(layer: Any) -> dict[str, torch.Tensor]:
    # A layer that can be cropped keeps more than the next pass reads.
    kept = slice(-(int(layer.sliding_window) - 1), None)
    return {
        "keys": layer.keys[:, :, kept].clone(memory_format=torch.contiguous_format),
        "values": layer.values[:, :, kept].clone(memory_format=torch.contiguous_format),
        "seen": torch.tensor(int(layer.cumulative_length)),
    }


def _linear_state(layer: Any) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for slot in _slots(layer):
        if layer.is_conv_states_initialized[slot]:
            kernel = int(layer.conv_kernel_size[slot])
            kept = layer.conv_states[slot][..., -kernel:]
            state[f"conv.{slot}"] = kept.clone(memory_format=torch.contiguous_format)
            state[f"begun.{slot}"] = torch.tensor(int(layer.has_previous_state[slot]))
        if layer.is_recurrent_states_initialized[slot]:
            kept = layer.recurrent_states[slot]
            state[f"recurrent.{slot}"] = kept.clone(memory_format=torch.contiguous_format)
    return state


def _restore_linear(layer: Any, parts: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for slot in _slots(layer):
        conv, begun = parts.get(f"conv.{slot}"), parts.get(f"begun.{slot}")
        if conv is not None and begun is not None:
            layer.lazy_initialization(conv_states=conv, state_idx=slot)
            layer.conv_states[slot].copy_(conv)
            layer.has_previous_state[slot] = bool(begun)
            yield from (f"conv.{slot}", f"begun.{slot}")
        recurrent = parts.get(f"recurrent.{slot}")
        if recurrent is not None:
            layer.lazy_initialization(recurrent_states=recurrent, state_idx=slot)
            layer.recurrent_states[slot].copy_(recurrent)
            yield f"recurrent.{slot}"


def _slots(layer: Any) -> range:
    return range(layer.number_of_states)


def _indexer_state(layer: Any) -> dict[str, torch.Tensor]:
    state = {"indexer": layer.indexer_keys.clone(memory_format=torch.contiguous_format)}
    positions = getattr(layer, "indexer_position_ids", None)
    if positions is not None:
        state["positions"] = positions.clone(memory_format=torch.contiguous_format)
    return state


def _restore_indexer(layer: Any, parts: Mapping[str, torch.Tensor]) -> Iterator[str]:
    keys = parts.get("indexer")
    if keys is not None:
        layer.lazy_initialization_indexer(keys)
        layer.indexer_keys = keys
        yield "indexer"
    if "positions" in parts:
        layer.indexer_position_ids = parts["positions"]
        yield "positions"
