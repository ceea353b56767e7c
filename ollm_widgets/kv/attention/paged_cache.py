"""A KV cache for decode steps whose older pages are in host memory, where kernels read them.

It lives as `FixedCache` does. Before the steps its layers hand out plain tensors, into which cold
pages are gathered one layer at a time; in the steps attention reads each page where it is. Whole
pages leave the device between steps, behind the computation, and a page has moved once the count
on the device says so; no address that a captured step knows ever changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import LinearAttentionLayer, StaticCache, StaticLayer

from ollm_widgets.errors import KVStrategyError
from ollm_widgets.kv.attention.paged_layer import PagedLayer
from ollm_widgets.kv.attention.room import KVTiers
from ollm_widgets.kv.attention.sharing import PagedClock, SharedPages
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.weights.steps.fixed_cache import FixedCache

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# A step is captured anew when this many more pages could be copied ahead: reading them in place
# is a little slower, a capture takes as long as some steps.
_RECAPTURE_PAGES = 32
_RECAPTURE_SHARE = 8


class PagedCache(FixedCache):
    """See the module; made by `paged_cache`."""

    clock: PagedClock

    def __init__(self, layers: list[Any], clock: PagedClock, shared: SharedPages) -> None:
        super().__init__(layers, clock)
        self._shared = shared
        self._paged = [layer for layer in layers if isinstance(layer, PagedLayer)]
        for number, layer in enumerate(self._paged):
            layer.number = number
        self._moving = False
        self._ahead = self._in_place = 0

    @property
    def cold_pages(self) -> int:
        """Whole pages of each layer that are in host memory."""
        return self._paged[0].cold if self._paged else 0

    # ------------------------------------------------------------------ the life of a request

    def tick(self, tokens: int) -> None:
        """From now on a pass is one step, and the first one writes token number `tokens`."""
        super().tick(tokens)
        if self._shared.mover is not None:
            self._shared.mover.settle()
        self.clock.cold_pages.fill_(self.cold_pages)

    def append(self, tokens: int) -> None:
        """From now on a pass appends any number of tokens, after the first `tokens`."""
        # A page on its way is still here: it has not been taken off the ring.
        if self._moving and self._shared.mover is not None:
            self._shared.mover.settle()
        self._moving = False
        super().append(tokens)

    def before_step(self, tokens: int) -> None:
        """Make sure that token number `tokens` has a slot; let the oldest page go ahead of time."""
        super().before_step(tokens)
        room, mover = self._shared.room, self._shared.mover
        if room is None or mover is None or room.all_hot:
            return
        if self._shared.staged_pages:
            self._ahead += len(self._paged)
        elif self.cold_pages:
            self._in_place += len(self._paged)
        while True:
            needed = not room.has_slot(tokens + 1, self.cold_pages)
            if self._moving and (needed or mover.arrived):
                mover.settle()
                self._let_go()
            elif room.is_full(tokens + 1, self.cold_pages) and not self._moving:
                self._send_oldest()
            else:
                return

    def _send_oldest(self) -> None:
        mover, page = self._shared.mover, self.cold_pages
        if mover is None:
            return
        states = [layer.oldest_hot_page() for layer in self._paged]
        if len({layer.page for layer in self._paged}) == 1:
            keys = torch.stack([keys for keys, _ in states])
            values = torch.stack([values for _, values in states])
            mover.send_each(keys, values, [layer.host for layer in self._paged], page)
        else:
            for layer, (keys, values) in zip(self._paged, states, strict=True):
                mover.send(keys[None], values[None], layer.host, page)
        self._moving = True

    def _let_go(self) -> None:
        self._moving = False
        for layer in self._paged:
            layer.cold += 1
        self._shared.moved_pages += len(self._paged)
        self.clock.cold_pages.fill_(self.cold_pages)

    def close(self) -> None:
        """Give its host memory back."""
        for layer in self._paged:
            layer.close()

    # ------------------------------------------------------------------ inside of a step

    @property
    def outgrown(self) -> bool:
        """Whether a captured step should be captured anew, for what is cold by now."""
        if self._shared.staging is None:
            return False
        more = self.cold_pages - self._shared.staged_pages
        return more < 0 or more > max(
            _RECAPTURE_PAGES, self._shared.staged_pages // _RECAPTURE_SHARE
        )

    def before_capture(self) -> None:
        """Plan the copies of the next captured step."""
        shared = self._shared
        if shared.staging is not None:
            shared.staged_pages = self.cold_pages
            shared.staging.prepare([layer.host for layer in self._paged], self.cold_pages)

    def without_copies(self) -> None:
        """Have the next pass read cold pages in place."""
        self._shared.staged_pages = 0
        if self._shared.staging is not None:
            self._shared.staging.prepare([], 0)

    def begin_step(self) -> None:
        """Start the copies of a captured step."""
        if self._shared.staging is not None and self._shared.staged_pages:
            self._shared.staging.begin()

    def end_step(self) -> None:
        """End them."""
        if self._shared.staging is not None and self._shared.staged_pages:
            self._shared.staging.join()

    # ------------------------------------------------------------------ figures

    def stats(self) -> KVStats:
        """What it holds and has moved; a layer whose cold pages were copied ahead is a hit."""
        staging = self._shared.staging
        device = 0 if staging is None else staging.size_bytes
        for layer in self._paged:
            if layer.is_initialized:
                device += layer.keys.nbytes + layer.values.nbytes
        cold = self.cold_pages * self._shared.tiers.page_tokens
        return KVStats(
            tokens=self.tokens,
            hot_tokens=max(self.tokens - cold, 0),
            accelerator_bytes=device,
            host_bytes=sum(layer.host_bytes for layer in self._paged),
            evicted_pages=self._shared.moved_pages,
            prefetch_hits=self._ahead,
            prefetch_misses=self._in_place,
        )


def paged_cache(
    config: PretrainedConfig, capacity: int, device: torch.device, tiers: KVTiers
) -> PagedCache | str:
    """Make an empty cache for `capacity` tokens; memory comes with the first pass.

    Parameters
    ----------
    config
        The model's.
    capacity
        Tokens of a sequence.
    tiers
        What it may take.

    Returns
    -------
    PagedCache or str
        The reason where not every layer keeps every token.
    """
    try:
        stock: list[Any] = list(StaticCache(config=config, max_cache_len=capacity).layers)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        return f"its layers have no static cache ({error})"
    clock = PagedClock(device)
    paged = sum(type(layer) is StaticLayer for layer in stock)
    shared = SharedPages(capacity, paged, tiers, device)
    layers: list[Any] = []
    for layer in stock:
        kind = type(layer)
        if kind is StaticLayer:
            layers.append(PagedLayer(clock, shared))
        elif kind is LinearAttentionLayer or kind.__name__ == "DummyLayer":
            layers.append(layer)
        else:
            return f"a {kind.__name__} has no pages that a step could read"
    if not paged:
        return "no layer keeps every token"
    return PagedCache(layers, clock, shared)


def require_pages(cache: PagedCache | str) -> PagedCache:
    """Turn a reason into an error.

    Raises
    ------
    KVStrategyError
        With the reason.
    """
    if isinstance(cache, str):
        raise KVStrategyError(f"Decode steps do not read this model's pages: {cache}.")
    return cache
