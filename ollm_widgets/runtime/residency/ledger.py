"""What is in memory, who uses it, and who waits: a state machine without threads or clock.

Whoever holds it sees to it that one thread at a time is in it, carries out what it answers, and
reports back. Each method is one transition.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.runtime.residency.records import Resident
from ollm_widgets.runtime.residency.steps import (
    Absent,
    Answer,
    Grant,
    Join,
    Journey,
    Linger,
    Return,
)


class Ledger:
    """Residents, and journeys of those that are on their way.

    Parameters
    ----------
    options
        Limits; replaced to change them.

    Attributes
    ----------
    version
        Grows with every transition, so that one who waits sees that something has changed.
    """

    def __init__(self, options: ResidencyOptions) -> None:
        self.options = options
        self.residents: dict[str, Resident] = {}
        self.journeys: dict[int, Journey] = {}
        self.version = 0
        self._turns = 0
        self._numbers = 0

    # ------------------------------------------------------------------ looking

    def by_use(self) -> list[Resident]:
        """Return the residents, the least recently used first."""
        return sorted(self.residents.values(), key=lambda resident: resident.turn)

    def here(self) -> list[Resident]:
        """Return the residents of this machine, the least recently used first."""
        return [resident for resident in self.by_use() if not resident.elsewhere]

    def resident(self, runtime_id: str) -> Resident:
        """Return what is in memory under that id.

        Raises
        ------
        RuntimeClosedError
            If there is none, or it is about to leave.
        """
        resident = self.residents.get(runtime_id)
        if resident is None or resident.state == "leaving":
            raise self.missing(runtime_id)
        return resident

    def missing(self, runtime_id: str) -> RuntimeClosedError:
        """Build the error that says what is in memory instead."""
        known = ", ".join(one.id for one in self.staying()) or "none"
        return RuntimeClosedError(
            f"No runtime {runtime_id!r} is in memory.", hint=f"In memory: {known}."
        )

    def staying(self) -> Iterator[Resident]:
        """Yield all but those that are being closed."""
        return (one for one in self.residents.values() if one.state != "leaving")

    def answer(self, keys: frozenset[Hashable]) -> Answer:
        """Say how a request can be served."""
        for resident in self.residents.values():
            if not resident.keys.isdisjoint(keys):
                return self.answer_of(resident)
        for journey in self.journeys.values():
            if not journey.keys.isdisjoint(keys):
                return Linger() if journey.cancelled else Join(journey)
        return Absent()

    def answer_of(self, resident: Resident) -> Answer:
        """Say how a request for one that is in memory can be served."""
        if resident.state == "ready":
            return Grant(resident)
        if resident.state in ("demoting", "leaving"):
            return Linger()
        for journey in self.journeys.values():
            if journey.resident is resident:
                return Linger() if journey.cancelled else Join(journey)
        return Return(resident)

    def earlier(self, journey: Journey) -> list[Journey]:
        """Return who waits for room already, and came before `journey`."""
        return [
            other
            for other in self.journeys.values()
            if other.number < journey.number
            and other.asks
            and not other.under_way
            and not other.cancelled
        ]

    def under_way(self, journey: Journey) -> list[Journey]:
        """Return the other journeys that have their room, and may not have taken it yet."""
        return [
            other for other in self.journeys.values() if other.under_way and other is not journey
        ]

    def is_free(self, resident: Resident) -> bool:
        """Whether nobody uses it or has pinned it, and it is on no move."""
        settled = resident.state in ("ready", "demoted")
        return settled and not resident.pinned and not resident.in_use

    def can_leave(self, resident: Resident, journey: Journey) -> bool:
        """Whether a resident may make room for `journey`.

        One that is asked back from host memory stays, unless `journey` came first, for which the
        one that asks waits in turn.
        """
        if resident is journey.resident or not self.is_free(resident):
            return False
        return not any(other.resident is resident for other in self.earlier(journey))

    # ------------------------------------------------------------------ use

    def lease(self, resident: Resident, now: float) -> bool:
        """Count one more who holds it; returns whether it was idle."""
        was_idle = not resident.in_use
        resident.leases += 1
        self._used(resident, now, began=was_idle)
        return was_idle

    def release(self, resident: Resident, now: float) -> bool:
        """Count one fewer who holds it; returns whether it is idle now."""
        resident.leases -= 1
        self._used(resident, now)
        return not resident.in_use

    def activity(self, resident: Resident, busy: bool, now: float) -> bool:
        """Note whether requests run or wait in it; returns whether that made it busy or idle.

        A move takes its turn like a request, and is no use of it.
        """
        before = resident.in_use
        moves = resident.state in ("demoting", "returning") if busy else resident.moves
        resident.busy, resident.moves = busy, busy and moves
        if moves:
            self.version += 1
            return False
        self._used(resident, now, began=not before)
        return resident.in_use != before

    def pin(self, resident: Resident, pinned: bool) -> None:
        """Keep it, or allow it to leave."""
        resident.pinned = pinned
        self.version += 1

    def measured(
        self,
        resident: Resident,
        held: Mapping[str, int],
        *,
        demotable: bool,
        demoted: bool,
        spare_bytes: int = 0,
    ) -> None:
        """Note what it holds; one that has come back by itself is no longer in host memory."""
        resident.held, resident.demotable, resident.spare_bytes = held, demotable, spare_bytes
        if resident.state == "demoted" and not demoted:
            resident.state, resident.away = "ready", {}
            self.version += 1

    def asked_for_spare(self, resident: Resident) -> None:
        """Note that it was asked for its copy in host memory; it is not asked twice in a row."""
        resident.stays = resident.spare_bytes > 0
        self.version += 1

    def _used(self, resident: Resident, now: float, *, began: bool = False) -> None:
        self._turns += 1
        self.version += 1
        resident.turn, resident.last_used = self._turns, now
        resident.stays = False
        if began:
            resident.busy_since = now

    # ------------------------------------------------------------------ coming

    def board_load(
        self,
        name: str,
        keys: frozenset[Hashable],
        group: str | None,
        *,
        elsewhere: bool = False,
    ) -> Journey:
        """Begin to wait for room for a load; its first caller has to board it.

        One that comes into memory elsewhere has its place in a group there.
        """
        journey = Journey(self._numbers + 1, name, keys, None if elsewhere else group)
        journey.elsewhere = elsewhere
        return self._begin(journey)

    def board_return(self, resident: Resident) -> Journey:
        """Begin to wait for room on the accelerator for one that is in host memory."""
        journey = Journey(
            self._numbers + 1,
            resident.name,
            frozenset(resident.keys),
            resident.group,
            resident,
            resident.away,
        )
        return self._begin(journey)

    def board(self, journey: Journey) -> None:
        """Count one more who waits for it."""
        journey.passengers += 1
        self.version += 1

    def leave(self, journey: Journey, now: float) -> bool:
        """Count one fewer who waits for it, or who holds what came of it.

        Returns
        -------
        bool
            Whether what came of it is idle now.
        """
        self.version += 1
        if journey.landed is not None:
            return self.release(journey.landed, now)
        journey.passengers -= 1
        if journey.passengers == 0:
            journey.cancelled = True
        return False

    def ask(self, journey: Journey, needs: Mapping[str, int]) -> None:
        """Note that it asks for room now, and for how much."""
        if not journey.asks or journey.needs != needs:
            journey.asks, journey.needs = True, needs
            self.version += 1

    def enter(self, journey: Journey) -> None:
        """Give it its room; what it needs is taken from now on."""
        journey.under_way = True
        if journey.resident is not None:
            journey.resident.state = "returning"
        self.version += 1

    def step_back(self, journey: Journey) -> None:
        """Give the room of a load back, to ask for another."""
        journey.under_way = False
        self.version += 1

    def landed(self, journey: Journey, resident: Resident, now: float) -> None:
        """End a journey well: each of its passengers holds a lease from here on."""
        del self.journeys[journey.number]
        journey.landed = resident
        resident.leases += journey.passengers
        resident.state, resident.away = "ready", {}
        self.residents[resident.id] = resident
        self._used(resident, now, began=True)

    def failed(self, journey: Journey) -> None:
        """End a journey with nothing; what should have come back stays in host memory."""
        del self.journeys[journey.number]
        resident = journey.resident
        if resident is not None and resident.state == "returning" and journey.under_way:
            resident.state = "demoted"
        self.version += 1

    def free_id(self, name: str) -> str:
        """Return an id that nobody has yet."""
        number = 1
        while (runtime_id := name if number == 1 else f"{name}-{number}") in self.residents:
            number += 1
        return runtime_id

    def _begin(self, journey: Journey) -> Journey:
        self._numbers = journey.number
        self.journeys[journey.number] = journey
        self.version += 1
        return journey

    # ------------------------------------------------------------------ going

    def begin_demotion(self, resident: Resident) -> None:
        """Let it go to host memory; nobody gets it meanwhile. One that is there stays there."""
        resident.state = "demoting"
        self.version += 1

    def end_demotion(self, resident: Resident, away: Mapping[str, int] | None) -> None:
        """Note what it will need to come back, or None when it could not go."""
        if away is None:
            resident.state, resident.stays = "ready", True
        else:
            resident.state, resident.away = "demoted", away
        self.version += 1

    def begin_close(self, resident: Resident) -> None:
        """Let it leave; nobody gets it from now on."""
        resident.state = "leaving"
        self.version += 1

    def stay(self, resident: Resident, *, demoted: bool) -> None:
        """Keep it after all: a request came first."""
        resident.state = "demoted" if demoted else "ready"
        self.version += 1

    def closed(self, resident: Resident) -> None:
        """Forget it."""
        self.residents.pop(resident.id, None)
        self.version += 1
