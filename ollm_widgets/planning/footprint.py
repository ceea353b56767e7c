"""What a model needs as a whole, for one dtype and context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.planning.activations import (
    LEAST_CHUNK_TOKENS,
    prefill_chunk_tokens,
    streamed_activation_bytes,
    whole_activation_bytes,
)
from ollm_widgets.planning.ids import DeviceKind, DType
from ollm_widgets.planning.memory import kv_bytes, kv_layer_bytes
from ollm_widgets.planning.streaming import least_layers_bytes
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
    def beside_bytes(self) -> int:
        """Everything but the decoder layers."""
        rest_bytes = self.sizes.embeddings_bytes if self.sizes is not None else 0
        return rest_bytes + self.kv_bytes + self.activations_bytes

    @property
    def needed_bytes(self) -> int:
        """Everything."""
        return self.beside_bytes + (self.sizes.layers_bytes if self.sizes is not None else 0)

    @property
    def least_bytes(self) -> int:
        """What the computing device must hold when the layers stream through it."""
        return self.beside_bytes + least_layers_bytes(self.sizes)


@dataclass(frozen=True, slots=True)
class Demand:
    """What decides a footprint beside dtype and device: the model, its context, its window.

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
    streams
        Whether the backend can stream layers and passes prompts in chunks.
    chunk_tokens
        Rows of a prompt that pass a layer at once; None for what suits the device.
    chunk_was_asked
        Whether a person set them.
    kv_budget_bytes
        The most that the KV cache may take on the device; None for all that it needs.
    every_token
        Whether sliding layers of the model keep every token too.
    """

    resolved: ResolvedModel
    context_tokens: int
    window_tokens: int | None
    use_cache: bool
    streams: bool = False
    chunk_tokens: int | None = None
    chunk_was_asked: bool = False
    kv_budget_bytes: int | None = None
    every_token: bool = False

    def on(self, kind: DeviceKind) -> Demand:
        """Return the demand as a device of that kind meets it.

        Decode steps that CUDA repeats write to a cache of fixed addresses.
        """
        return replace(self, every_token=self.streams and kind == "cuda")

    def footprint(
        self, dtype: DType, kind: DeviceKind, context_tokens: int | None = None
    ) -> Footprint:
        """Return what it needs in `dtype` on a device, for another context if one is given."""
        tokens = self.context_tokens if context_tokens is None else context_tokens
        shape = self.resolved.shape
        sizes = weight_sizes(self.resolved, dtype)
        if shape is None:
            return Footprint(sizes, 0, 0)
        cached = self.on(kind).kv_total_bytes(dtype, tokens)
        if self.kv_budget_bytes is not None:
            cached = min(cached, self.kv_budget_bytes)
        if self.streams:
            chunk = self.prefill_chunk_tokens(dtype, kind, tokens)
            work = streamed_activation_bytes(self.resolved, dtype, tokens, chunk, kind)
        else:
            work = whole_activation_bytes(self.resolved, dtype, tokens, kind)
        return Footprint(sizes, cached, work)

    def kv_total_bytes(self, dtype: DType, context_tokens: int | None = None) -> int:
        """Return the KV cache at the planned context, or at another; 0 where it is not known."""
        shape = self.resolved.shape
        if shape is None or not self.use_cache:
            return 0
        tokens = self.context_tokens if context_tokens is None else context_tokens
        return kv_bytes(shape, dtype, tokens, self.window_tokens, every_token=self.every_token)

    def kv_layer_bytes(self, dtype: DType) -> tuple[int, ...]:
        """Return the KV cache of each layer at the planned context; empty without one."""
        shape = self.resolved.shape
        if shape is None or not self.use_cache:
            return ()
        return kv_layer_bytes(
            shape,
            dtype,
            self.context_tokens,
            self.window_tokens,
            every_token=self.every_token,
        )

    def prefill_chunk_tokens(
        self, dtype: DType, kind: DeviceKind, context_tokens: int | None = None
    ) -> int | None:
        """Return the rows of a prompt that pass a layer at once; None for all."""
        if not self.streams:
            return None
        tokens = self.context_tokens if context_tokens is None else context_tokens
        return prefill_chunk_tokens(self.resolved, dtype, kind, tokens, self.chunk_tokens)

    def in_smaller_chunks(self, dtype: DType, kind: DeviceKind) -> Demand | None:
        """Return the demand with prompts in chunks half as long; None where they are least."""
        rows = self.prefill_chunk_tokens(dtype, kind) or self.context_tokens
        rows = min(rows, self.context_tokens)
        if not self.streams or self.chunk_was_asked or rows <= LEAST_CHUNK_TOKENS:
            return None
        return replace(self, chunk_tokens=max(rows // 2, LEAST_CHUNK_TOKENS))

    def must_hold_bytes(
        self, dtype: DType, kind: DeviceKind, context_tokens: int | None = None
    ) -> int:
        """Return what the device must hold at the least.

        All of it; where layers stream, the fewest buffers, and prompts in the shortest chunks.
        """
        if not self.streams:
            return self.footprint(dtype, kind, context_tokens).needed_bytes
        least = self if self.chunk_was_asked else replace(self, chunk_tokens=LEAST_CHUNK_TOKENS)
        return least.footprint(dtype, kind, context_tokens).least_bytes

    def largest_context(self, dtype: DType, kind: DeviceKind, available_bytes: int) -> int:
        """Return the most tokens that fit, 0 when not even the weights do."""
        return largest(
            lambda tokens: self.must_hold_bytes(dtype, kind, tokens) <= available_bytes,
            self.context_tokens,
        )


def largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest count up to `most` that fits, by bisection."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low if fits(low) else 0
