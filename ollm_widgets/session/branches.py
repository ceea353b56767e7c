"""Which turn follows which, and which of several versions of a turn is shown."""

from __future__ import annotations

from collections.abc import Iterator

BEGINNING = ""  # what the first turns of a conversation follow


class Branches:
    """A tree of turns by their ids, and one way through it, from the beginning to a leaf.

    Turns that follow the same one are versions of each other. Where there are several, the one
    that was added or chosen last is on the way, and those below it are remembered as they were.
    """

    def __init__(self) -> None:
        self._before: dict[str, str] = {}
        self._after: dict[str, list[str]] = {}
        self._chosen: dict[str, str] = {}

    def __contains__(self, turn_id: str) -> bool:
        return turn_id in self._before

    def add(self, turn_id: str, after: str) -> None:
        """Let a new turn follow `after`, which must be on the way, and choose it."""
        self._before[turn_id] = after
        self._after.setdefault(after, []).append(turn_id)
        self._chosen[after] = turn_id

    def choose(self, turn_id: str) -> None:
        """Lead the way through a turn that was added."""
        while turn_id != BEGINNING:
            before = self._before[turn_id]
            self._chosen[before] = turn_id
            turn_id = before

    def before(self, turn_id: str) -> str:
        """Return what a turn follows."""
        return self._before[turn_id]

    def versions(self, turn_id: str) -> tuple[str, ...]:
        """Return a turn and those that could stand in its place, oldest first."""
        return tuple(self._after[self._before[turn_id]])

    def way(self) -> Iterator[str]:
        """Yield the turns on the way, in order."""
        turn_id = self._chosen.get(BEGINNING)
        while turn_id is not None:
            yield turn_id
            turn_id = self._chosen.get(turn_id)
