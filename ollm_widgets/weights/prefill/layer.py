"""A decoder layer's forward that takes a long prompt in chunks of tokens."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ollm_widgets.kv.window.rows import WindowRows
from ollm_widgets.weights.prefill.call import LayerCall, unknown_arguments
from ollm_widgets.weights.prefill.causal_rows import CausalRows, WholeGroups
from ollm_widgets.weights.prefill.masks import CausalMasks, SeenOutside
from ollm_widgets.weights.prefill.row_chunks import Forward, row_chunks


@dataclass(slots=True)
class PrefillPass:
    """What the layers of one model share during a pass.

    Parameters
    ----------
    rows
        Tokens of a chunk.
    in_place
        Whether a layer may write its output over its input, when that is the output of the
        layer before it.
    attention
        Names the attention implementation in force.
    whole
        Why each layer, by its place in the cache, took the last long prompt whole.
    """

    rows: int
    in_place: bool
    attention: Callable[[], str]
    whole: dict[int, str] = field(default_factory=dict)
    masks: CausalMasks = field(default_factory=CausalMasks)
    seen: SeenOutside = field(default_factory=SeenOutside)
    latest: weakref.ref[torch.Tensor] | None = None

    def end(self) -> None:
        """Let go of what was made for the prompt."""
        self.masks.clear()
        self.seen.clear()
        self.latest = None


class SplitLayer:
    """The forward of a decoder layer with plain attention, run over chunks of a long prompt.

    The cache grows chunk by chunk, so each chunk attends to all before it; a call that cannot
    be cut without changing its meaning goes to the layer's own forward as it is.

    Parameters
    ----------
    layer
        The layer, its own forward still in place.
    place
        Its place in the cache.
    last
        Whether a pass ends with it.
    shared
        What the layers of the model share.
    """

    def __init__(self, layer: nn.Module, place: int, *, last: bool, shared: PrefillPass) -> None:
        self._forward: Forward = layer.forward
        self._signature = inspect.signature(layer.forward)
        self._sharing = [part for part in layer.modules() if hasattr(part, "is_kv_shared_layer")]
        self._groups = WholeGroups(layer)
        self._mask_arrives = False
        self._place = place
        self._last = last
        self._pass = shared

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, in chunks where the prompt is longer than one."""
        hidden = args[0] if args else kwargs.get("hidden_states")
        length = hidden.shape[-2] if isinstance(hidden, torch.Tensor) and hidden.dim() > 1 else 0
        if length <= self._pass.rows:
            return self._forward(*args, **kwargs)
        try:
            call = self._call(args, kwargs)
            if isinstance(call, str):
                self._pass.whole[self._place] = call
                return self._forward(*args, **kwargs)
            self._pass.whole.pop(self._place, None)
            return self._in_chunks(call)
        except BaseException:
            self._pass.end()
            raise
        finally:
            if self._last:
                self._pass.end()

    def _call(self, args: Any, kwargs: Any) -> LayerCall | str:
        """The call's arguments, where the chunks would see what the whole sees; else why not."""
        if torch.is_grad_enabled():
            return "gradients are recorded"
        if _outputs_recorded():
            return "states of each layer are recorded"
        call = LayerCall.of(self._signature, args, kwargs)
        if isinstance(call, str):
            return call
        if call.hidden.dim() != 3:
            return f"its hidden states have {call.hidden.dim()} dimensions"
        return self._against_cache(call) or self._against_mask(call) or call

    def _against_cache(self, call: LayerCall) -> str | None:
        """Why the cache does not give each chunk the keys that the whole would see."""
        cache, made = call.cache, self._place < len(call.cache.layers)
        kind = type(cache.layers[self._place]) if made else cache.layer_class_to_replicate
        if getattr(cache, "offloading", False):
            return "the cache moves each layer's keys away after every call"
        if kind is None or not is_attention_cache(kind):
            return f"its cache is a {getattr(kind, '__name__', None)}"
        slides = made and getattr(cache.layers[self._place], "is_sliding", False)
        for part in self._sharing if call.shared is not None else ():
            if part.is_kv_shared_layer or (slides and getattr(part, "store_full_length_kv", True)):
                return "it shares keys of the whole prompt with other layers"
        return None if self._sharing or call.shared is None else "it shares keys with other layers"

    def _against_mask(self, call: LayerCall) -> str | None:
        """Why the mask cannot be cut into those of the chunks."""
        attention, mask = self._pass.attention(), call.mask
        if attention not in ("sdpa", "eager"):
            return f"its attention is {attention}"
        columns, offset = call.cache.get_mask_sizes(call.length, self._place)
        past = int(call.cache.get_seq_length(self._place))
        window = self._window(call.cache)
        if mask is None:
            # transformers leaves the mask out where sdpa is to be causal from the first token on.
            plain = attention == "sdpa" and past == 0
            return None if plain and (window is None or call.length < window) else "it has no mask"
        whole = (call.length, columns)
        if not isinstance(mask, torch.Tensor) or mask.dim() != 4 or mask.shape[-2:] != whole:
            return "its mask is of an unknown form"
        if isinstance(mask, WindowRows):
            return None  # it knows the keys that the cache gives each chunk
        spans = []
        for start, end in row_chunks(call.length, self._pass.rows):
            first = 0 if window is None else max(past + start - window + 1, 0)
            spans.append((start, end, max(first - offset, 0), past + end - offset))
        if self._pass.seen.any(mask, tuple(spans)):
            return "its tokens look ahead of a chunk, or back beyond the cache"
        return None

    def _window(self, cache: Any) -> int | None:
        """Tokens that the cache keeps for this layer, where it forgets any."""
        if self._place >= len(cache.layers) or not cache.layers[self._place].is_sliding:
            return None
        window: int = cache.get_max_length(self._place)
        return window

    def _in_chunks(self, call: LayerCall) -> Any:
        columns, offset = call.cache.get_mask_sizes(call.length, self._place)
        whole: torch.Tensor | None = self._reusable(call.hidden)
        given: Any = None
        for start, end in row_chunks(call.length, self._pass.rows):
            mask = self._mask(call, start, end, columns, offset)
            given = self._attend(call.cut(start, end, mask), mask)
            part: torch.Tensor = given[0] if isinstance(given, tuple) else given
            if whole is None:
                whole = part.new_empty((part.shape[0], call.length, *part.shape[2:]))
            whole[:, start:end] = part
        assert whole is not None
        self._pass.latest = weakref.ref(whole)
        if isinstance(given, tuple):
            # What else a layer returns is only read when it was asked for; such calls run whole.
            return (whole, *(None if isinstance(x, torch.Tensor) else x for x in given[1:]))
        return whole

    def _attend(self, arguments: dict[str, Any], mask: torch.Tensor | None) -> Any:
        if not isinstance(mask, CausalRows):
            return self._forward(**arguments)
        with self._groups.kept() if self._mask_arrives else nullcontext():
            given = self._forward(**arguments)
        self._mask_arrives = mask.attended
        return given

    def _reusable(self, hidden: torch.Tensor) -> torch.Tensor | None:
        own = self._pass.latest() if self._pass.latest is not None else None
        return hidden if self._pass.in_place and own is hidden else None

    def _mask(
        self, call: LayerCall, start: int, end: int, columns: int, offset: int
    ) -> torch.Tensor | None:
        """The chunk's rows, and the columns of the keys that the cache returns for it."""
        rows = end - start
        if isinstance(call.mask, WindowRows):
            return call.mask.rows(start, end)
        kept, first = call.cache.get_mask_sizes(rows, self._place)
        if call.mask is not None:
            left = first - offset
            cut: torch.Tensor = call.mask[:, :, start:end, left : left + kept]
            return cut
        if start == 0 and (rows > 1 or kept == rows):
            return None
        device = call.hidden.device
        return self._pass.masks.of(rows, kept, end, reach=columns, device=device)


def why_whole(layer: nn.Module, own_cache: object | None) -> str | None:
    """Why a layer is never cut along the sequence; None where it may be.

    Parameters
    ----------
    layer
        A decoder layer.
    own_cache
        The kind of cache layer that transformers gives it; None where that is not known.
    """
    if own_cache is not None and not is_attention_cache(type(own_cache)):
        return f"it keeps a {type(own_cache).__name__} in the cache, not keys and values alone"
    if unknown := unknown_arguments(layer):
        return f"it takes {', '.join(unknown)}, which may reach beyond a chunk"
    if cache_place(layer) is None:
        return "it has no place of its own in the cache"
    if any(getattr(part, "is_causal", True) is False for part in layer.modules()):
        return "its tokens look ahead"
    return None


def cache_place(layer: nn.Module) -> int | None:
    """A layer's place in the cache, which its attention knows; None unless there is just one."""
    found = {
        index
        for module in layer.modules()
        if isinstance(index := getattr(module, "layer_idx", None), int)
    }
    return found.pop() if len(found) == 1 else None


def is_attention_cache(kind: type) -> bool:
    """Whether a kind of cache layer keeps keys and values as they come, and nothing else."""
    from transformers import cache_utils as own

    if kind.__module__.startswith("transformers."):
        names = ("DynamicLayer", "DynamicSlidingWindowLayer", "StaticLayer")
        return kind in [getattr(own, name) for name in (*names, "StaticSlidingWindowLayer")]
    return issubclass(kind, own.CacheLayerMixin) and not issubclass(
        kind, own.LinearAttentionCacheLayerMixin
    )


def _outputs_recorded() -> bool:
    """Whether transformers collects states or attentions of this pass, one a layer."""
    from transformers.utils import output_capturing

    active: Any = output_capturing._active_collector
    return bool(active.get())
