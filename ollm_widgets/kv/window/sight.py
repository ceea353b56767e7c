"""Which tokens a query sees through a window, and in which order a cache hands them out.

A query at position ``q`` sees the last `window` positions up to its own, and of each row the
first `sinks` tokens that are no padding. What comes back from the cache for new tokens at
``past, past + 1, ...`` are columns: first the sinks that have left the window of the first of
these tokens, the very first sink last, then every position from the start of that window on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Columns:
    """The keys that a cache returns for some new tokens, by their positions.

    Parameters
    ----------
    sinks
        Leading columns: sinks number ``sinks - 1`` to 0, each row its own.
    first, stop
        The positions behind them, `stop` not included.
    """

    sinks: int
    first: int
    stop: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.sinks + self.stop - self.first

    @property
    def offset(self) -> int:
        """What added to a column's number gives its position, behind the sinks."""
        return self.first - self.sinks


class Sight:
    """The window of a cache, and what its layers have to know of the latest mask.

    Parameters
    ----------
    window
        Tokens a query may look back on, itself included.
    sinks
        First tokens of each row that stay visible.
    """

    def __init__(self, window: int, sinks: int) -> None:
        self.window = window
        self.sinks = sinks
        # Positions of the sinks [batch, sinks], -1 where there are none yet; None where they are
        # the first tokens of every row.
        self.positions: torch.Tensor | None = None
        # The position behind the last sink of all rows, once all are known.
        self.sinks_end: int | None = None
        # The new tokens that the latest mask is for.
        self._masked: tuple[int, int] | None = None

    def columns(self, past: int, tokens: int) -> Columns:
        """What the cache returns for `tokens` new ones after `past`."""
        first = max(past + 1 - self.window, 0)
        # Sink s of a row is at position s at least, so no more than these can have left.
        return Columns(min(self.sinks, first), first, past + tokens)

    def in_ring_order(self, past: int, stop: int) -> bool:
        """Whether new tokens get their columns in the order of a full ring's slots.

        Only a token that has a mask of its own does: parts of a longer mask are cut in order.
        """
        return stop > self.window and self._masked == (past, stop) and stop == past + 1

    def masks(self, past: int, stop: int) -> bool:
        """Whether the latest mask was made for new tokens that these are among."""
        return self._masked is not None and self._masked[0] <= past and stop <= self._masked[1]

    def masked(self, past: int, stop: int, real: torch.Tensor | None) -> None:
        """Note that a mask was made for the new tokens `past` to `stop`.

        Parameters
        ----------
        real
            Bool ``[batch, stop]``, False where a token is padding; None where none is.
        """
        self._masked = (past, stop)
        if self.sinks and stop > self.window and self.sinks_end is None:
            self._find(stop, real)

    def _find(self, stop: int, real: torch.Tensor | None) -> None:
        """Find the sinks among the first `stop` tokens."""
        if real is None:
            if self.positions is None:
                self.sinks_end = self.sinks if stop >= self.sinks else None
                return
            real = self.positions.new_ones((self.positions.shape[0], stop), dtype=torch.bool)
        rank = real.cumsum(1).masked_fill_(~real, 0)  # [batch, stop], from 1
        wanted = torch.arange(1, self.sinks + 1, device=real.device)
        here = rank[:, None] == wanted[None, :, None]  # [batch, sinks, stop]
        found = here.int().argmax(-1).masked_fill_(~here.any(-1), -1)
        if self.positions is not None:
            found = torch.where(self.positions < 0, found, self.positions)
        self.positions = found
        lowest, highest = torch.stack((found.min(), found.max())).tolist()
        self.sinks_end = highest + 1 if lowest >= 0 else None

    def forget(self, left: int) -> None:
        """Forget what concerns tokens from position `left` on, and the latest mask."""
        self._masked = None
        if not left:
            self.positions = self.sinks_end = None
        elif self.sinks_end is None or self.sinks_end > left:
            self.sinks_end = None
            if self.positions is not None:
                self.positions = self.positions.masked_fill(self.positions >= left, -1)

    def rearrange(self, rows: torch.Tensor) -> None:
        """Let the batch consist of these of its rows, ``[new batch]`` or bool ``[batch]``."""
        self._masked = None
        if self.positions is not None:
            self.positions = self.positions[rows.to(self.positions.device)]


class Place(int):
    """Where the new tokens begin, as a cache says it to whoever makes their mask.

    transformers hands it on to the mask function of the attention in force, and so the cache
    tells that function what a mask over its columns looks like.
    """

    sight: Sight

    @classmethod
    def of(cls, past: int, sight: Sight) -> Place:
        """`past` tokens, seen through `sight`."""
        place = cls(past)
        place.sight = sight
        return place
