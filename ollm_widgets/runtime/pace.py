"""The course of an answer: how many tokens there were when, in a bounded number of samples."""

from __future__ import annotations

MOST_SAMPLES = 512


class PaceSamples:
    """Tokens of an answer over time.

    However long the answer, its whole course is kept: once there are too many samples, every
    second one goes, and later ones are taken half as often.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[int, float]] = []  # tokens so far, seconds since its turn came
        self._every = 1

    def add(self, tokens: int, seconds: float, *, last: bool = False) -> None:
        """Note that there are so many tokens; the last ones are noted in any case."""
        known = self.samples[-1][0] if self.samples else 0
        if tokens - known < (1 if last or not self.samples else self._every):
            return
        self.samples.append((tokens, seconds))
        if len(self.samples) > MOST_SAMPLES:
            del self.samples[1:-1:2]
            self._every *= 2
