"""A KV cache of fixed addresses, which a captured decode step can go on writing to.

Before the steps it appends like transformers' dynamic cache, with the same shapes and so the
same kernels and masks. In the steps its length lives on the device and every layer hands out
its whole buffer, so that nothing about a step depends on what the host knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    LinearAttentionLayer,
    StaticCache,
    StaticLayer,
    StaticSlidingWindowLayer,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class StepClock:
    """Where in the sequence the next step writes, shared by the layers of a cache.

    Parameters
    ----------
    device
        Where the model computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # [1]
        self.ticking = False


class FixedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer, ``[batch, heads, capacity, dim]``.

    A sliding layer keeps every token too: which ones a query sees is the mask's business.
    """

    is_croppable = True
    # Tensors once the first states have come, which is before anything reads them.
    keys: Any
    values: Any

    def __init__(self, clock: StepClock, capacity: int, *, sliding: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.clock = clock
        self.capacity = capacity
        self.is_sliding = sliding
        self.filled = 0

    @property
    def is_compileable(self) -> bool:  # type: ignore[override]
        """Whether masks must span the whole buffer, which is how transformers asks for steps."""
        return self.clock.ticking

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the buffers, of the shapes of the first states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.batch_size = key_states.shape[0]
        # Zeros, as what a mask hides is still multiplied by 0.
        self.keys = key_states.new_zeros(self._shape(key_states))
        self.values = value_states.new_zeros(self._shape(value_states))
        self.is_initialized = True

    def _shape(self, states: torch.Tensor) -> tuple[int, int, int, int]:
        batch, heads, _, dim = states.shape
        return batch, heads, self.capacity, dim

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states of new tokens; return what attention reads."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.clock.ticking:
            self.keys.index_copy_(2, self.clock.position, key_states)
            self.values.index_copy_(2, self.clock.position, value_states)
            return self.keys, self.values
        end = self.filled + key_states.shape[-2]
        self.keys[:, :, self.filled : end].copy_(key_states)
        self.values[:, :, self.filled : end].copy_(value_states)
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that `update` will return."""
        return (self.capacity if self.clock.ticking else self.filled + query_length), 0

    def get_seq_length(self) -> int:
        """Tokens so far; in the steps a tensor on the device, as transformers' static one."""
        if self.clock.ticking:
            return self.clock.position[0]  # type: ignore[return-value]
        return self.filled

    def get_max_length(self) -> int:
        """Tokens that fit."""
        return self.capacity

    def reset(self) -> None:
        """Empty it; the addresses stay."""
        self.filled = 0
        if self.is_initialized:
            self.keys.zero_()
            self.values.zero_()


class FixedHybridLayer(LinearAttentionLayer, FixedLayer):  # type: ignore[no-untyped-call,misc]
    """A layer that has linear and full attention side by side."""

    is_croppable = False
    is_compileable = FixedLayer.is_compileable

    def __init__(self, clock: StepClock, capacity: int, states: int) -> None:
        FixedLayer.__init__(self, clock, capacity, sliding=False)
        LinearAttentionLayer.__init__(self, number_of_states=states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Allocate one of both halves: transformers calls it with two tensors or with names."""
        half = FixedLayer if args else LinearAttentionLayer
        half.lazy_initialization(self, *args, **kwargs)

    def reset(self) -> None:
        """Empty both halves."""
        LinearAttentionLayer.reset(self)
        FixedLayer.reset(self)


class FixedCache(Cache):
    """See the module; made by `fixed_cache`."""

    def __init__(self, layers: list[Any], clock: StepClock) -> None:
        super().__init__(layers=layers)
        self.clock = clock

    @property
    def is_croppable(self) -> bool:
        """Whether the last tokens can be forgotten: not by linear attention."""
        return all(isinstance(layer, FixedLayer) and layer.is_croppable for layer in self.layers)

    def tick(self, tokens: int) -> None:
        """From now on a pass is one step, and the first one writes token number `tokens`."""
        self.clock.position.fill_(tokens)
        self.clock.ticking = True

    def append(self, tokens: int) -> None:
        """From now on a pass appends any number of tokens, after the first `tokens`."""
        self.clock.ticking = False
        for layer in self.layers:
            if isinstance(layer, FixedLayer):
                layer.filled = tokens

    def reset(self) -> None:
        """Empty it; the addresses stay."""
        self.append(0)
        super().reset()  # type: ignore[no-untyped-call]
        self.clock.position.zero_()


def fixed_cache(config: PretrainedConfig, capacity: int, device: torch.device) -> FixedCache | str:
    """Make an empty cache for `capacity` tokens; memory comes with the first pass.

    Parameters
    ----------
    config
        The model's.
    capacity
        Tokens of a sequence.

    Returns
    -------
    FixedCache or str
        The reason where a layer keeps a state of its own kind.
    """
    clock = StepClock(device)
    layers: list[Any] = []
    try:
        stock: list[Any] = list(StaticCache(config=config, max_cache_len=capacity).layers)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        return f"its layers have no static cache ({error})"
    for layer in stock:
        kind = type(layer)
        if kind is StaticLayer or kind is StaticSlidingWindowLayer:
            layers.append(FixedLayer(clock, capacity, sliding=kind is StaticSlidingWindowLayer))
        elif kind is LinearAttentionLayer or kind.__name__ == "DummyLayer":
            layers.append(layer)
        elif kind.__name__ == "LinearAttentionAndStaticFullAttentionLayer":
            layers.append(FixedHybridLayer(clock, capacity, layer.number_of_states))
        else:
            return f"a {kind.__name__} keeps state that a captured step cannot follow"
    return FixedCache(layers, clock)
