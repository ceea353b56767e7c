"""What a model needs as a whole, for one dtype and context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.ids import DType
from ollm_widgets.planning.memory import activation_bytes, kv_bytes
from ollm_widgets.planning.weights import WeightSizes, weight_sizes


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one model in memory.

    Parameters
    ----------
    sizes
        Its weights; None when nothing is known of them.
    kv_bytes, activations_bytes
        KV cache and intermediate results at the planned context; 0 when its shape is unknown.
    """

    sizes: WeightSizes | None
    kv_bytes: int
    activations_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Everything."""
        weights_bytes = self.sizes.total_bytes if self.sizes is not None else 0
        return weights_bytes + self.kv_bytes + self.activations_bytes


@dataclass(frozen=True, slots=True)
class Demand:
    """What decides a footprint beside the dtype: the model, its context, its window.

    Parameters
    ----------
    resolved
        The model.
    context_tokens
        Tokens planned for.
    window_tokens
        Tokens that the KV cache keeps, None for all.
    use_cache
        Whether there is a KV cache.
    """

    resolved: ResolvedModel
    context_tokens: int
    window_tokens: int | None
    use_cache: bool

    def footprint(self, dtype: DType, context_tokens: int | None = None) -> Footprint:
        """Return what it needs in `dtype`, for another context if one is given."""
        tokens = self.context_tokens if context_tokens is None else context_tokens
        shape = self.resolved.shape
        sizes = weight_sizes(self.resolved, dtype)
        if shape is None:
            return Footprint(sizes, 0, 0)
        cached = kv_bytes(shape, dtype, tokens, self.window_tokens) if self.use_cache else 0
        return Footprint(sizes, cached, activation_bytes(shape, dtype, tokens))

    def largest_context(self, dtype: DType, available_bytes: int) -> int:
        """Return the most tokens that fit, 0 when not even the weights do."""
        return _largest(
            lambda tokens: self.footprint(dtype, tokens).needed_bytes <= available_bytes,
            self.context_tokens,
        )


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest count up to `most` that fits, by bisection."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low if fits(low) else 0
