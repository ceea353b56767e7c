"""What a manager does about its runtimes of its own accord: decided here, done by the watchdog."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ollm_widgets.render.units import format_memory, format_seconds
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.runtime.residency.records import ResidentState
from ollm_widgets.runtime.residency.surroundings import RAM, MemoryLevel, Plea

if TYPE_CHECKING:
    from ollm_widgets.runtime.residency.records import Resident

# How often memory and requests of other kernels are looked at, while there is something to give.
TICK_S = 3.0
# Nobody says that a request begins, so that short limits are looked after more often.
_LEAST_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Watched:
    """A runtime in memory as it is at one moment. Times are on the manager's clock.

    Parameters
    ----------
    id, name, state, pinned, in_use
        See `Resident`.
    last_used
        When it was last used, if it is not in use.
    turn
        The smaller, the longer ago it was used.
    held
        Bytes by place.
    demotable
        Whether it can go to host memory, and has not just failed to.
    running_since
        When the request that runs began; None where none runs.
    not_before
        Until then it is left alone: it could not go when it was asked to.
    stopped_at
        When a request of it was last told to end, which takes it a moment.
    """

    id: str
    name: str
    last_used: float
    state: ResidentState = "ready"
    pinned: bool = False
    in_use: bool = False
    turn: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    demotable: bool = False
    running_since: float | None = None
    not_before: float = 0.0
    stopped_at: float = -math.inf

    @classmethod
    def of(
        cls,
        resident: Resident,
        now: float,
        not_before: float = 0.0,
        stopped_at: float = -math.inf,
    ) -> Watched:
        """Look at a resident."""
        running_s = max((each.ran_s for each in resident.runtime.queue if each.running), default=-1)
        return cls(
            id=resident.id,
            name=resident.name,
            last_used=resident.last_used,
            state=resident.state,
            pinned=resident.pinned,
            in_use=resident.in_use,
            turn=resident.turn,
            held=dict(resident.held),
            demotable=resident.demotable and not resident.stays,
            running_since=None if running_s < 0 else now - running_s,
            not_before=not_before,
            stopped_at=stopped_at,
        )

    def held_bytes(self, place: str) -> int:
        """Bytes in one memory."""
        return self.held.get(place, 0)

    @property
    def accelerator_bytes(self) -> int:
        """Bytes on accelerators, all of them together."""
        return sum(size for place, size in self.held.items() if place != RAM)

    def may_go(self, now: float) -> bool:
        """Whether it may be moved without anybody noticing."""
        movable = self.state in ("ready", "demoted")
        return movable and not self.pinned and not self.in_use and self.not_before <= now


@dataclass(frozen=True, slots=True)
class Demote:
    """Move an idle runtime to host memory; `why` is for people."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Let an idle runtime leave; `why` is for people."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class CancelBusy:
    """End the request that runs in a runtime; `why` is for people."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class AnswerPlea:
    """Tell another kernel what `ids`, which have gone by then, have given back."""

    plea: Plea
    ids: tuple[str, ...]


Action = Demote | Unload | CancelBusy | AnswerPlea


def due(
    now: float,
    residents: Sequence[Watched],
    levels: Mapping[str, MemoryLevel],
    pleas: Sequence[Plea],
    options: ResidencyOptions,
    *,
    relieves: bool = True,
) -> tuple[tuple[Action, ...], float | None]:
    """Say what has to be done now, in this order, and when to look again.

    Who is pinned or in use stays. Of the others one that was not used for the idle timeout goes to
    host memory, and out of it when as much time has passed again; one that cannot be demoted, or
    finds no room there, leaves at once. Where a memory is fuller than it should be, one goes. Then
    requests of other kernels are answered with as much as there is to give.

    Parameters
    ----------
    levels
        How full memories are; what is not there has room.
    relieves
        Whether one goes from a memory that is too full. What the last one gave back has to show
        before the next one goes.

    Returns
    -------
    actions, next_at
        The time is later than `now`; None with nothing in memory.
    """
    departures = _Departures(now, residents, levels, options)
    cancels, next_times = _overlong(now, residents, options)
    next_times += departures.let_idle_go()
    if relieves:
        departures.relieve_pressure()
    answers = [departures.answer(plea) for plea in pleas]
    if residents:
        next_times.append(now + TICK_S)
    actions = (*cancels, *departures.actions(), *answers)
    return actions, min(next_times, default=None)


def _overlong(
    now: float, residents: Sequence[Watched], options: ResidencyOptions
) -> tuple[list[CancelBusy], list[float]]:
    """Requests that have run too long, and when others will have."""
    if not options.busy_timeout_s:
        return [], []
    cancels = []
    next_times = [now + max(options.busy_timeout_s, _LEAST_TICK_S)] if residents else []
    for resident in residents:
        if resident.running_since is None or resident.running_since <= resident.stopped_at:
            continue
        deadline = resident.running_since + options.busy_timeout_s
        if deadline > now:
            next_times.append(deadline)
        else:
            why = f"ran longer than {format_seconds(options.busy_timeout_s)}"
            cancels.append(CancelBusy(resident.id, why))
    return cancels, next_times


class _Departures:
    """Collects who goes; nobody goes twice."""

    def __init__(
        self,
        now: float,
        residents: Iterable[Watched],
        levels: Mapping[str, MemoryLevel],
        options: ResidencyOptions,
    ) -> None:
        self._now = now
        self._residents = sorted(residents, key=lambda each: (each.turn, each.last_used))
        self._levels = levels
        self._options = options
        self._gone: dict[str, Demote | Unload] = {}
        self._to_ram_bytes = 0

    def actions(self) -> tuple[Demote | Unload, ...]:
        """Who goes, in the order in which it was decided."""
        return tuple(self._gone.values())

    def let_idle_go(self) -> list[float]:
        """Let those go whose time has come; returns when that of others will."""
        timeout_s, next_times = self._options.idle_timeout_s, []
        for each in self._residents if timeout_s else ():
            if each.state not in ("ready", "demoted") or each.pinned or each.in_use:
                continue
            demotes = self._demotes(each)
            first_at = each.last_used + timeout_s
            last_at = first_at + timeout_s if demotes or each.state == "demoted" else first_at
            next_at = max(first_at if demotes else last_at, each.not_before)
            why = f"unused for {format_seconds(self._now - each.last_used)}"
            if next_at > self._now:
                next_times.append(next_at)
            elif demotes and last_at > self._now:
                self._demote(each, why)
                next_times.append(last_at)
            else:
                self._unload(each, why)
        return next_times

    def relieve_pressure(self) -> None:
        """Let one go from the memory that is fullest, if that is too full."""
        share = self._options.pressure
        pressed = [level for level in self._levels.values() if share and level.used_share > share]
        for level in sorted(pressed, key=lambda each: each.used_share, reverse=True):
            holding = [each for each in self._residents if each.held_bytes(level.place)]
            if any(self._frees(each, level.place) for each in holding):
                return  # it may be enough; the next look shows
            for each in holding:
                if each.may_go(self._now) and each.id not in self._gone:
                    name = "RAM" if level.place == RAM else level.place
                    why = f"{name} was {100 * level.used_share:.0f} % full"
                    self._let_go(each, level.place, why)
                    return

    def answer(self, plea: Plea) -> AnswerPlea:
        """Let idle ones go until another kernel has what it asks for, or there are no more."""
        given_bytes, ids = 0, []
        why = f"{plea.asker_title} asked for {format_memory(plea.needed_bytes)}"
        for each in self._residents:
            if given_bytes >= plea.needed_bytes:
                break
            held_bytes = each.held_bytes(plea.place)
            if held_bytes and each.may_go(self._now) and each.id not in self._gone:
                self._let_go(each, plea.place, why)
                given_bytes += held_bytes
                ids.append(each.id)
        return AnswerPlea(plea, tuple(ids))

    def _let_go(self, each: Watched, place: str, why: str) -> None:
        """Demote it where that frees `place`, else unload it."""
        if place != RAM and self._demotes(each):
            self._demote(each, why)
        else:
            self._unload(each, why)

    def _demotes(self, each: Watched) -> bool:
        """Whether it can go to host memory, without filling it more than it may be."""
        if not self._options.demotes or not each.demotable or each.state != "ready":
            return False
        ram = self._levels.get(RAM)
        if ram is None:
            return True
        left_bytes = ram.free_bytes - self._to_ram_bytes - each.accelerator_bytes
        return left_bytes >= ram.total_bytes * (1 - (self._options.pressure or 1))

    def _frees(self, each: Watched, place: str) -> bool:
        action = self._gone.get(each.id)
        return isinstance(action, Unload) or (isinstance(action, Demote) and place != RAM)

    def _demote(self, each: Watched, why: str) -> None:
        self._to_ram_bytes += each.accelerator_bytes
        self._gone[each.id] = Demote(each.id, why)

    def _unload(self, each: Watched, why: str) -> None:
        self._gone[each.id] = Unload(each.id, why)
