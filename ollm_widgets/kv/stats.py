"""What a KV cache holds and has moved, as figures."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ollm_widgets.render.units import format_memory


@dataclass(frozen=True, slots=True)
class KVStats:
    """Figures of one cache, or of several added up.

    Parameters
    ----------
    tokens, hot_tokens
        Tokens of history, and how many of them are on the computing device in full precision.
    accelerator_bytes, host_bytes, disk_bytes
        What each tier holds now.
    written_bytes, read_bytes
        Traffic with the disk so far.
    evicted_pages
        Pages that have moved to a slower tier, or were dropped by a window.
    prefetch_hits, prefetch_misses
        How often a layer's cold pages were there when it asked, and how often it waited.
    """

    tokens: int = 0
    hot_tokens: int = 0
    accelerator_bytes: int = 0
    host_bytes: int = 0
    disk_bytes: int = 0
    written_bytes: int = 0
    read_bytes: int = 0
    evicted_pages: int = 0
    prefetch_hits: int = 0
    prefetch_misses: int = 0

    def __add__(self, other: KVStats) -> KVStats:
        return KVStats(
            **{
                each.name: getattr(self, each.name) + getattr(other, each.name)
                for each in fields(self)
            }
        )

    def summary(self) -> str:
        """Say it in words: ``"4,096 tokens, 512 of them hot: 6 MiB hot, 40 MiB on disk"``."""
        if not self.tokens:
            return "empty"
        hot = "" if self.hot_tokens == self.tokens else f", {self.hot_tokens:,} of them hot"
        sizes = (
            (self.accelerator_bytes, "hot"),
            (self.host_bytes, "cold in RAM"),
            (self.disk_bytes, "on disk"),
        )
        held = ", ".join(f"{format_memory(size)} {where}" for size, where in sizes if size)
        late = "" if self.hit_rate is None else f"; {self.hit_rate:.0%} of cold reads in time"
        return f"{self.tokens:,} tokens{hot}: {held}{late}"

    @property
    def hit_rate(self) -> float | None:
        """Share of layers whose cold pages were there in time; None where none were cold."""
        asked = self.prefetch_hits + self.prefetch_misses
        return self.prefetch_hits / asked if asked else None
