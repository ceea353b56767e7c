"""A host as the registry's books have it: what it holds, loads, and has to answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ollm_widgets.cluster.books.entries import LEAVING, Coming, Copy
from ollm_widgets.cluster.books.prefixes import SeenPrefixes
from ollm_widgets.cluster.messages import HeldCopy, HostReport, HostView


@dataclass(slots=True, eq=False)
class KnownHost:
    """A host that has joined.

    Parameters
    ----------
    host, node_id, node
        Serve's id of the replica; Ray's id of its node, and what a person calls that.
    heard
        The number of its last report; None before the first.
    free_bytes, most
        As it reported.
    copies, coming
        What it holds and what it loads, by key. A key is in one of them at most.
    open
        How many reservations are open, by key.
    seen
        Beginnings of the prompts that were sent to it.
    """

    host: str
    node_id: str
    node: str
    heard: int | None = None
    free_bytes: int = 0
    most: int | None = None
    copies: dict[str, Copy] = field(default_factory=dict)
    coming: dict[str, Coming] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    seen: SeenPrefixes = field(default_factory=SeenPrefixes)

    # ------------------------------------------------------------------ looking

    @property
    def in_flight(self) -> int:
        """How many requests it has, for all its models."""
        return sum(self.open.values())

    @property
    def count(self) -> int:
        """How many models it holds and loads, without those that leave."""
        return sum(1 for _ in self.staying()) + len(self.coming)

    @property
    def room_bytes(self) -> int:
        """What is free once loads under way have taken theirs, and what leaves has left."""
        promised = sum(coming.needed_bytes for coming in self.coming.values())
        leaving = sum(copy.held.frees_bytes for copy in self.copies.values() if copy.leaves)
        return self.free_bytes + leaving - promised

    def staying(self) -> Iterator[Copy]:
        """Yield the models that do not leave."""
        return (copy for copy in self.copies.values() if not copy.leaves)

    def turn_of(self, key: str) -> int | None:
        """Return when it was used last; None where it is neither held nor on its way."""
        copy = self.copies.get(key)
        if copy is not None:
            return None if copy.leaves else copy.turn
        coming = self.coming.get(key)
        return coming.turn if coming is not None else None

    def view(self) -> HostView:
        """Return it as a person sees it."""
        held = (
            replace(copy.held, state=LEAVING) if copy.leaves else copy.held
            for copy in self.copies.values()
        )
        loading = tuple(coming.name for coming in self.coming.values())
        return HostView(
            self.host, self.node, tuple(held), loading, dict(self.open), self.free_bytes
        )

    # ------------------------------------------------------------------ what the host says

    def hear(self, report: HostReport) -> None:
        """Take what it holds from a report, unless a later one has come."""
        if self.heard is not None and report.number <= self.heard:
            return
        self.heard, self.free_bytes, self.most = report.number, report.free_bytes, report.most
        before, self.copies = self.copies, {}
        for held in report.held:
            known = self.coming.pop(held.key, None) or before.get(held.key)
            self.copies[held.key] = Copy(held, known.turn if known is not None else 0)
        self._mark()

    def landed(self, key: str, number: int) -> None:
        """Take a load as ended; nothing if a later report has told."""
        if key not in self.coming or self.heard is None or number < self.heard:
            return
        self.heard = number
        coming = self.coming.pop(key)
        for gone in coming.evicts:
            self._forget(gone)
        # Until its next report.
        needed_bytes = coming.needed_bytes
        self.free_bytes = max(self.free_bytes - needed_bytes, 0)
        held = HeldCopy(key, coming.name, coming.group, "ready", False, needed_bytes, needed_bytes)
        self.copies[key] = Copy(held, coming.turn)
        self._mark()

    def left(self, key: str, number: int) -> None:
        """Take a model as gone; nothing if a later report has told."""
        if self.heard is None or number < self.heard:
            return
        self.heard = number
        self._forget(key)
        self._mark()

    # ------------------------------------------------------------------ what requests do

    def reserve(self, key: str, prefix: tuple[str, ...], turn: int) -> None:
        """Count one more request for a model that it holds or loads."""
        self.open[key] = self.open.get(key, 0) + 1
        self.seen.add(key, prefix)
        self.use(key, turn)

    def close(self, key: str, reservation: str) -> None:
        """Count one request fewer; a load that nobody else waits for is given up."""
        self.open[key] -= 1
        if not self.open[key]:
            del self.open[key]
        coming = self.coming.get(key)
        if coming is not None:
            coming.waiters.discard(reservation)
            if not coming.waiters:
                del self.coming[key]
                self._mark()

    def rest(self, key: str) -> None:
        """Take a model without requests as idle, until the host's next report says otherwise."""
        copy = self.copies.get(key)
        if copy is not None and key not in self.open:
            copy.held = replace(copy.held, busy=False)

    def use(self, key: str, turn: int) -> None:
        """Note when a model was used last."""
        entry = self.copies.get(key) or self.coming.get(key)
        if entry is not None:
            entry.turn = turn

    def board(self, new: Coming, reservation: str) -> None:
        """Begin a load, or wait for the same one if it is under way."""
        self.coming.setdefault(new.key, new).waiters.add(reservation)
        self._mark()

    def _forget(self, key: str) -> None:
        copy = self.copies.pop(key, None)
        if copy is not None:
            self.free_bytes += copy.held.frees_bytes

    def _mark(self) -> None:
        """Mark what is here and makes room for a load under way, and nothing else."""
        for coming in self.coming.values():
            coming.evicts = tuple(key for key in coming.evicts if key in self.copies)
        going = {key for coming in self.coming.values() for key in coming.evicts}
        for key, copy in self.copies.items():
            copy.evicted = key in going
