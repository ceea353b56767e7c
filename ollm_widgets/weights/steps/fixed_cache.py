"""A KV cache of fixed addresses, which a captured decode step can go on writing to.

Before the steps it appends like transformers' dynamic cache, with the same shapes and so the
same kernels and masks. In the steps its length lives on the device and every layer hands out
its whole buffer, so that nothing about a step depends on what the host knows. Our attention,
where a model lets it in, reads only what is filled.
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

from ollm_widgets.kv.attention.launching import SplitDecode
from ollm_widgets.kv.attention.writing import write_token
from ollm_widgets.kv.stats import KVStats

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
        # Whether kernels of our own write and read in the steps.
        self.by_kernel = False


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
        self.slots = capacity
        self.is_sliding = sliding
        self.filled = 0
        self.number = 0

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
        return batch, heads, self.slots, dim

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states of new tokens; return what attention reads."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.clock.ticking:
            self._write_token(key_states, value_states)
            return self.keys, self.values
        end = self.filled + key_states.shape[-2]
        self.keys[:, :, self.filled : end].copy_(key_states)
        self.values[:, :, self.filled : end].copy_(value_states)
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _write_token(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        contiguous = keys.stride(-1) == 1 and values.stride(-1) == 1
        if self.clock.by_kernel and contiguous and keys.dtype == self.keys.dtype:
            write_token(keys, values, self.keys, self.values, self.clock.position)
            return
        slot = self._slot()
        self.keys.index_copy_(2, slot, keys)
        self.values.index_copy_(2, slot, values)

    def _slot(self) -> torch.Tensor:
        """Where a step writes, ``[1]``."""
        return self.clock.position

    def append_tokens(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Add tokens ``[batch, heads, tokens, dim]`` behind those that are there."""
        self.update(keys, values)

    def reserve_tokens(
        self, keys: torch.Tensor, values: torch.Tensor, tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Hold further tokens whose states are still to be written; see `contents`."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        end = self.filled + tokens
        if self.clock.ticking or end > self.slots:
            return None
        span = slice(self.filled, end)
        self.filled = end
        return self.keys[:, :, span], self.values[:, :, span]

    def read_tokens(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of tokens `start` to `stop`, ``[batch, heads, tokens, dim]``; views."""
        return self.keys[:, :, start:stop], self.values[:, :, start:stop]

    def rewind(self, tokens: int) -> None:
        """Go back, or on, to the first `tokens`; nothing is lost before `reset`."""
        self.filled = tokens

    # ------------------------------------------------------------------ attention of a step

    def attend(
        self,
        query: torch.Tensor,
        *,
        scale: float,
        mask: torch.Tensor | None = None,
        window: int | None = None,
    ) -> torch.Tensor:
        """Attend to the tokens so far, that of the step included, by a kernel.

        Parameters
        ----------
        query
            ``[batch, query heads, 1, dim]``.
        scale
            Of the scores.
        mask
            bool ``[batch or 1, 1, 1, capacity]``, or all.
        window
            Tokens that matter, itself included, or all.

        Returns
        -------
        torch.Tensor
            ``[batch, 1, query heads, dim]``.
        """
        split = SplitDecode(
            query,
            self.keys.shape[1],
            self.values.shape[-1],
            self.clock.position,
            cold_pages=None,
            scale=scale,
            mask=mask,
            window=window,
        )
        split.hot(self.keys, self.values)
        return split.merged()

    def visible(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What a query sees, where that is not the buffer under a mask."""
        return None

    def causal_mask(self) -> torch.Tensor:
        """Which slots of the buffer a step sees, bool ``[1, 1, 1, slots]``."""
        slots = torch.arange(self.slots, device=self.keys.device)
        return (slots <= self.clock.position)[None, None, None]

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
        self._stepped = 0

    @property
    def is_croppable(self) -> bool:
        """Whether the last tokens can be forgotten: not by linear attention."""
        return all(isinstance(layer, FixedLayer) and layer.is_croppable for layer in self.layers)

    @property
    def fixed_layers(self) -> list[FixedLayer]:
        """The layers that keep every token."""
        return [layer for layer in self.layers if isinstance(layer, FixedLayer)]

    @property
    def tokens(self) -> int:
        """How many tokens it holds of each sequence."""
        if self.clock.ticking:
            return self._stepped
        return max((layer.filled for layer in self.fixed_layers), default=0)

    def tick(self, tokens: int) -> None:
        """From now on a pass is one step, and the first one writes token number `tokens`."""
        self.clock.position.fill_(tokens)
        self.clock.ticking = True
        self._stepped = tokens

    def append(self, tokens: int) -> None:
        """From now on a pass appends any number of tokens, after the first `tokens`."""
        self.clock.ticking = False
        for layer in self.fixed_layers:
            layer.rewind(tokens)

    def before_step(self, tokens: int) -> None:
        """Do what the host has to before token number `tokens` is written."""
        self._stepped = tokens + 1

    @property
    def outgrown(self) -> bool:
        """Whether a captured step should be captured anew."""
        return False

    def before_capture(self) -> None:
        """Prepare what a captured step does beside the model; called when one is captured."""

    def without_copies(self) -> None:
        """Prepare for a pass that is not captured."""

    def begin_step(self) -> None:
        """Begin what a step does beside the model; captured with it."""

    def end_step(self) -> None:
        """End it."""

    def stats(self) -> KVStats:
        """What it holds."""
        held = sum(
            layer.keys.nbytes + layer.values.nbytes
            for layer in self.fixed_layers
            if layer.is_initialized
        )
        return KVStats(tokens=self.tokens, hot_tokens=self.tokens, accelerator_bytes=held)

    def close(self) -> None:
        """Give back what a collection would not."""

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
