"""How fast one answer of a conversation is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.runtime.pace import PaceSamples

if TYPE_CHECKING:
    from ollm_widgets.runtime.completion import Delta


class Pace:
    """Follows one answer.

    Parameters
    ----------
    job
        The job that writes the answer.
    """

    def __init__(self, job: str) -> None:
        self.job = job
        self.running = True
        self.last: Delta | None = None
        self._course = PaceSamples()

    @property
    def samples(self) -> tuple[tuple[int, float], ...]:
        """Tokens so far, and seconds since the answer's turn came."""
        return tuple(self._course.samples)

    def follow(self, piece: Delta | None, *, busy: bool) -> bool:
        """Take in the latest piece, None where there is no new one; says whether it has ended.

        Parameters
        ----------
        busy
            Whether the answer still runs: one that fails has no last piece.
        """
        ended = not busy
        if piece is not None:
            last = piece.finish_reason is not None
            self._course.add(piece.new_tokens, piece.seconds, last=last)
            self.last, ended = piece, ended or last
        self.running = not ended
        return ended
