"""How caches of one shape are cut into records, whatever they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ollm_widgets.errors import KVStrategyError

if TYPE_CHECKING:
    from transformers import Cache

TOKENS = "tokens"
STATE = "state"


class LayerPages(msgspec.Struct, frozen=True):
    """Shape of what one layer keeps of a token: keys ``[heads, key_width]``, values likewise."""

    layer: int
    heads: int
    key_width: int
    value_width: int
    dtype: str


@dataclass(frozen=True, slots=True)
class PageGroup:
    """Layers whose pages of one block lie in one record, as they keep the same tokens.

    Parameters
    ----------
    name
        Of the record: ``tokens``, or ``window-1023``.
    kept_tokens
        How many of the last tokens these layers keep; None for all.
    layers
        In their order.
    """

    name: str
    kept_tokens: int | None
    layers: tuple[LayerPages, ...]

    def first_needed(self, tokens: int) -> int:
        """First token whose page is needed to go on after `tokens`."""
        return 0 if self.kept_tokens is None else max(0, tokens - self.kept_tokens)


class CacheKind(msgspec.Struct, frozen=True):
    """What the layers of a cache keep.

    Parameters
    ----------
    full
        Layers that keep every token.
    windows
        Layers that keep the last tokens, by how many.
    unused
        Layers for keys and values that a pass leaves empty.
    has_states
        Whether there is something that stands for all tokens so far, so that only a saved end
        can be resumed from.
    """

    full: tuple[LayerPages, ...]
    windows: tuple[tuple[int, tuple[LayerPages, ...]], ...]
    unused: tuple[int, ...]
    has_states: bool

    @property
    def groups(self) -> tuple[PageGroup, ...]:
        """The records of pages that a block may have."""
        full = (PageGroup(TOKENS, None, self.full),) if self.full else ()
        return full + tuple(
            PageGroup(f"window-{kept}", kept, layers) for kept, layers in self.windows
        )

    @property
    def text(self) -> str:
        """As JSON; equal kinds have equal texts."""
        return msgspec.json.encode(self).decode()

    def fits(self, cache: Cache) -> bool:
        """Whether what was saved in this way can be put into `cache`, which is empty."""
        from ollm_widgets.kv.contents import readable_layers, require_readable, sliding_layers

        try:
            require_readable(cache)
        except KVStrategyError:
            return False
        full = {each.layer for each in self.full} | set(self.unused)
        windows = {each.layer: kept for kept, layers in self.windows for each in layers}
        grows = getattr(cache, "layer_class_to_replicate", None) is not None
        readable = set(readable_layers(cache))
        present = range(len(cache.layers))
        if grows and any(layer not in present for layer in windows):
            return False
        if not grows and any(layer not in present for layer in full | set(windows)):
            return False
        if any(layer in readable for layer in windows):
            return False
        return readable <= full and all(
            layer in full or windows.get(layer) == kept
            for layer, kept in sliding_layers(cache).items()
        )


def kind_of(cache: Cache) -> CacheKind:
    """Look at a cache that holds tokens of one sequence.

    Raises
    ------
    KVStrategyError
        When it holds several sequences, or a layer that cannot be read.
    """
    from ollm_widgets.kv.contents import (
        has_special_state,
        readable_layers,
        require_readable,
        sliding_layers,
    )

    require_readable(cache)
    unused: list[int] = []
    full: list[LayerPages] = []
    windows: dict[int, list[LayerPages]] = {}
    for layer in readable_layers(cache):
        pages = _pages(cache, layer)
        if pages is None:
            unused.append(layer)
        else:
            full.append(pages)
    for layer, kept in sliding_layers(cache).items():
        pages = _pages(cache, layer)
        if pages is None:
            unused.append(layer)
        else:
            windows.setdefault(kept, []).append(pages)
    return CacheKind(
        full=tuple(full),
        windows=tuple((kept, tuple(layers)) for kept, layers in sorted(windows.items())),
        unused=tuple(sorted(unused)),
        has_states=has_special_state(cache),
    )


def _pages(cache: Cache, layer: int) -> LayerPages | None:
    """What a layer keeps of a token; None where it was never used."""
    from ollm_widgets.kv.contents import held_tokens, read_tokens

    tokens = held_tokens(cache, layer)
    if not tokens:
        return None
    keys, values = read_tokens(cache, layer, tokens - 1, tokens)
    batch, heads, _, key_width = keys.shape
    if batch != 1:
        raise KVStrategyError(
            f"A prefix is kept of one sequence; this cache holds {batch}.",
            hint="Generate for one prompt at a time, or use the lifecycle runtime-scoped.",
        )
    dtype = str(keys.dtype).removeprefix("torch.")
    return LayerPages(layer, heads, key_width, values.shape[-1], dtype)
