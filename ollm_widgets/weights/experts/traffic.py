"""How many experts a model wanted, and how many had to be moved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExpertTraffic:
    """Counts since the experts began to stream.

    Parameters
    ----------
    hits
        Wanted experts that lay in the cache, one a layer and call.
    misses
        Wanted experts that came from their source.
    moved_bytes
        Bytes that left the source, for misses, for the cache and ahead of time.
    """

    hits: int = 0
    misses: int = 0
    moved_bytes: int = 0

    def __add__(self, other: ExpertTraffic) -> ExpertTraffic:
        return ExpertTraffic(
            self.hits + other.hits,
            self.misses + other.misses,
            self.moved_bytes + other.moved_bytes,
        )
