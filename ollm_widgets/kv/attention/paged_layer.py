"""One attention layer's keys and values: the newest on the device, older pages in host memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ollm_widgets.kv.attention.host_pages import HostPages
from ollm_widgets.kv.attention.launching import ColdPart, SplitDecode
from ollm_widgets.kv.attention.room import PageRoom
from ollm_widgets.kv.attention.sharing import PagedClock, SharedPages
from ollm_widgets.kv.attention.staging import Staging
from ollm_widgets.kv.codecs.page import PageCodec, PageShape
from ollm_widgets.weights.steps.fixed_cache import FixedLayer

if TYPE_CHECKING:
    from collections.abc import Iterator

_Part = TypeVar("_Part")


class PagedLayer(FixedLayer):  # type: ignore[no-untyped-call]
    """See the module; `filled` and `cold` say where a token is.

    Token t of the last ones is in slot ``t % ring`` of ``[batch, heads, ring, width]``; the first
    `cold` pages are in host memory.
    """

    clock: PagedClock

    def __init__(self, clock: PagedClock, shared: SharedPages) -> None:
        super().__init__(clock, shared.capacity_tokens, sliding=False)
        self.cold = 0
        self.page_tokens = shared.tiers.page_tokens
        self._shared = shared
        self._host: HostPages | None = None
        self._page: PageShape | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Decide how much is hot, and allocate that."""
        whole = PageShape.of(key_states, value_states)
        self._page = replace(whole, tokens=self.page_tokens)
        room = self._shared.open(self._page)
        self.slots = room.ring_pages * self.page_tokens
        super().lazy_initialization(key_states, value_states)
        page_bytes = self.codec.encoded_bytes(self._page)
        pages = 0 if room.all_hot else room.pages
        self._host = HostPages(page_bytes, pages, key_states.device)

    # ------------------------------------------------------------------ what it is made of

    @property
    def room(self) -> PageRoom:
        """How the capacity is divided."""
        return _made(self._shared.room)

    @property
    def codec(self) -> PageCodec:
        """How cold pages are encoded."""
        return _made(self._shared.codec)

    @property
    def page(self) -> PageShape:
        """Shape of a page."""
        return _made(self._page)

    @property
    def host(self) -> HostPages:
        """The cold pages."""
        return _made(self._host)

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that it has taken."""
        return 0 if self._host is None else self._host.size_bytes

    # ------------------------------------------------------------------ prompts

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states of new tokens; return what attention reads, together in one tensor."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.filled + key_states.shape[-2]
        if self.clock.ticking or not self.room.cold_after(end, self.cold):
            return super().update(key_states, value_states, *args, **kwargs)
        if self.filled:
            key_states, value_states = self._with_past(0, key_states, value_states)
        self._store(key_states, value_states, 0, end)
        return key_states, value_states

    def append_tokens(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Add tokens ``[batch, heads, tokens, width]`` as `update` does, giving nothing back."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        end = self.filled + keys.shape[-2]
        if not self.room.cold_after(end, self.cold):
            super().append_tokens(keys, values)
            return
        base = self.cold * self.page_tokens
        if base < self.filled:
            keys, values = self._with_past(base, keys, values)
        self._store(keys, values, base, end)

    def reserve_tokens(
        self, keys: torch.Tensor, values: torch.Tensor, tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """See `FixedLayer`; pages that leave are sent from what is appended."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        return super().reserve_tokens(keys, values, tokens) if self.room.all_hot else None

    def _with_past(
        self, base: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the tokens from `base` on and new ones into one tensor."""
        past = self.filled - base
        together = []
        for states in (keys, values):
            batch, heads, new, width = states.shape
            together.append(states.new_empty(batch, heads, past + new, width))
            together[-1][:, :, past:].copy_(states)
        self._read_into(together[0][:, :, :past], together[1][:, :, :past], base)
        return together[0], together[1]

    def _store(self, keys: torch.Tensor, values: torch.Tensor, base: int, end: int) -> None:
        """Keep tokens `filled` to `end` of those that begin with `base`; older pages may go."""
        cold = self.room.cold_after(end, self.cold)
        if cold > self.cold:
            going = slice(self.cold * self.page_tokens - base, cold * self.page_tokens - base)
            mover = _made(self._shared.mover)
            self._shared.moved_pages += cold - self.cold
            mover.send(
                self._in_pages(keys[:, :, going]),
                self._in_pages(values[:, :, going]),
                self.host,
                self.cold,
            )
        token = max(self.filled, cold * self.page_tokens)
        for first, slot, count in _slots(token, end, self.slots):
            span = slice(first - base, first - base + count)
            self.keys[:, :, slot : slot + count].copy_(keys[:, :, span])
            self.values[:, :, slot : slot + count].copy_(values[:, :, span])
        self.filled, self.cold = end, cold

    # ------------------------------------------------------------------ any range

    def read_tokens(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of tokens `start` to `stop` as attention reads them, on the device."""
        batch, heads, _, _ = self.keys.shape
        keys = self.keys.new_empty(batch, heads, stop - start, self.keys.shape[-1])
        values = self.values.new_empty(batch, heads, stop - start, self.values.shape[-1])
        self._read_into(keys, values, start)
        return keys, values

    def _read_into(self, keys: torch.Tensor, values: torch.Tensor, start: int) -> None:
        stop = start + keys.shape[2]
        first_hot = self.cold * self.page_tokens
        if start < first_hot:
            _made(self._shared.mover).settle()
            last = -(-min(stop, first_hot) // self.page_tokens)
            for page, stretch in self.host.pieces(start // self.page_tokens, last):
                self._decode_into(stretch, page * self.page_tokens, keys, values, start)
        for first, slot, count in _slots(max(start, first_hot), stop, self.slots):
            span = slice(first - start, first - start + count)
            keys[:, :, span].copy_(self.keys[:, :, slot : slot + count])
            values[:, :, span].copy_(self.values[:, :, slot : slot + count])

    def _decode_into(
        self,
        stretch: torch.Tensor,
        first: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        start: int,
    ) -> None:
        """Decode pages whose first token is `first`; what lies outside of the range is left."""
        data = stretch.to(keys.device, non_blocking=True)
        count = stretch.shape[0] * self.page_tokens
        low, high = max(first, start), min(first + count, start + keys.shape[2])
        target = slice(low - start, high - start)
        if high - low == count:
            pages = self._in_pages(keys[:, :, target]), self._in_pages(values[:, :, target])
            self.codec.decode(data, self.page, *pages)
            return
        batch, heads, _, _ = keys.shape
        whole = [
            states.new_empty(batch, heads, count, states.shape[-1]) for states in (keys, values)
        ]
        self.codec.decode(data, self.page, self._in_pages(whole[0]), self._in_pages(whole[1]))
        for states, decoded in zip((keys, values), whole, strict=True):
            states[:, :, target].copy_(decoded[:, :, low - first : high - first])

    def _in_pages(self, states: torch.Tensor) -> torch.Tensor:
        """``[batch, heads, tokens, width]`` as ``[pages, batch, heads, page tokens, width]``."""
        batch, heads, _, width = states.shape
        pages = states.view(batch, heads, -1, self.page_tokens, width)
        return pages.permute(2, 0, 1, 3, 4)

    def rewind(self, tokens: int) -> None:
        """Go back to the first `tokens`; a page that is to be written again becomes hot."""
        kept = tokens // self.page_tokens
        if kept < self.cold:
            start, count = kept * self.page_tokens, tokens % self.page_tokens
            keys, values = self.read_tokens(start, start + count)
            self.cold = kept
            slot = start % self.slots
            self.keys[:, :, slot : slot + count].copy_(keys)
            self.values[:, :, slot : slot + count].copy_(values)
        super().rewind(tokens)

    def oldest_hot_page(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the page that leaves next, as they lie in the ring."""
        slot = self.cold * self.page_tokens % self.slots
        span = slice(slot, slot + self.page_tokens)
        return self.keys[:, :, span], self.values[:, :, span]

    # ------------------------------------------------------------------ attention of a step

    def _slot(self) -> torch.Tensor:
        return self.clock.position % self.slots

    def visible(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """All tokens of a step in one tensor each, where kernels do not read them."""
        if self.room.all_hot:
            return None
        return self.read_tokens(0, int(self.clock.position) + 1)

    def attend(self, query: torch.Tensor, **options: Any) -> torch.Tensor:
        """See `FixedLayer.attend`."""
        if self.room.all_hot:
            return super().attend(query, **options)
        staging, number = self._shared.staging, self.number
        staged = self._shared.staged_pages
        chunks = -(-staged // self.host.chunk_pages) if staging is not None else 0
        split = SplitDecode(
            query,
            self.keys.shape[1],
            self.values.shape[-1],
            self.clock.position,
            cold_pages=self.clock.cold_pages,
            cold_parts=1 + chunks,
            **options,
        )
        split.hot(self.keys, self.values, self.page_tokens)
        split.cold(ColdPart(self.host.table, staged, staged), self.page, self.codec)
        for part in self._staged_parts(staging, number):
            split.cold(part, self.page, self.codec)
        return split.merged()

    def _staged_parts(self, staging: Staging | None, number: int) -> Iterator[ColdPart]:
        while staging is not None and self._shared.staged_pages:
            part = staging.next_of(number)
            if part is None:
                return
            yield part
            staging.release()

    def reset(self) -> None:
        """Empty it; the addresses stay."""
        self.cold = 0
        super().reset()

    def close(self) -> None:
        """Give its host memory back; nothing may be reading it."""
        if self._host is not None:
            self._host.close()


def _slots(token: int, end: int, ring: int) -> Iterator[tuple[int, int, int]]:
    """Stretches of tokens that lie together in a ring: first token, first slot, how many."""
    while token < end:
        slot = token % ring
        count = min(end - token, ring - slot)
        yield token, slot, count
        token += count


def _made(part: _Part | None) -> _Part:
    if part is None:
        raise RuntimeError("the layer has no states yet")
    return part
