"""The newest tokens of a layer, one after the other in memory of the computing device."""

from __future__ import annotations

import torch

from ollm_widgets.kv.codecs.page import PageShape
from ollm_widgets.kv.tiers.buffers import move_forward, new_buffer

_SMALLEST_TOKENS = 64


class HotTail:
    """Keys and values that grow at the end and leave at the front.

    Parameters
    ----------
    shape
        Of a page; its tokens do not matter.
    device
        Where they are.
    """

    def __init__(self, shape: PageShape, device: torch.device) -> None:
        self._device = device
        self._keys = new_buffer((*shape.keys[:2], 0, shape.key_width), shape.dtype, device)
        self._values = new_buffer((*shape.values[:2], 0, shape.value_width), shape.dtype, device)
        self._start = 0
        self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def capacity(self) -> int:
        """Tokens that its memory can hold."""
        return self._keys.shape[2]

    @property
    def size_bytes(self) -> int:
        """Bytes of its memory."""
        return self._keys.nbytes + self._values.nbytes

    def tokens(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of some tokens, the oldest being 0."""
        first, last = self._start + start, self._start + stop
        return self._keys[:, :, first:last], self._values[:, :, first:last]

    def append(self, keys: torch.Tensor, values: torch.Tensor, limit: int) -> None:
        """Add tokens; `limit` is the most that there will be before some leave."""
        new = keys.shape[2]
        if self._end + new > self.capacity:
            self._make_room(new, limit)
        self._keys[:, :, self._end : self._end + new].copy_(keys.detach())
        self._values[:, :, self._end : self._end + new].copy_(values.detach())
        self._end += new

    def drop_front(self, tokens: int) -> None:
        """Let the oldest go."""
        self._start += tokens
        if self._start == self._end:
            self._start = self._end = 0

    def drop_back(self, tokens: int) -> None:
        """Let the newest go."""
        self._end -= tokens

    def resize(self, capacity: int) -> None:
        """Move to memory for `capacity` tokens, no fewer than there are."""
        count = len(self)
        for name in ("_keys", "_values"):
            before: torch.Tensor = getattr(self, name)
            shape = (*before.shape[:2], capacity, before.shape[3])
            after = new_buffer(shape, before.dtype, self._device)
            after[:, :, :count].copy_(before[:, :, self._start : self._end])
            setattr(self, name, after)
        self._start, self._end = 0, count

    def select(self, rows: torch.Tensor) -> None:
        """Let sequence i of the batch be what sequence ``rows[i]`` was."""
        rows = rows.to(self._device)
        for name in ("_keys", "_values"):
            before: torch.Tensor = getattr(self, name)
            picked = before[:, :, self._start : self._end].index_select(0, rows)
            if len(rows) != len(before):
                setattr(
                    self,
                    name,
                    new_buffer((len(rows), *before.shape[1:]), before.dtype, self._device),
                )
            after: torch.Tensor = getattr(self, name)
            after[:, :, self._start : self._end].copy_(picked)

    def _make_room(self, new: int, limit: int) -> None:
        needed = len(self) + new
        # A move costs as much as growing, so it has to free a part worth it, or be the only way.
        worth_it = self._start >= self.capacity // 8 or self.capacity >= limit
        if needed <= self.capacity and worth_it:
            for states in (self._keys, self._values):
                move_forward(states, self._start, len(self))
            self._start, self._end = 0, len(self)
            return
        roomy = max(needed + needed // 4, _SMALLEST_TOKENS)
        self.resize(max(needed, min(roomy, limit)))
