"""Making room for a journey: who goes, who is waited for, and when to give up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ollm_widgets.backends.base import LoadProgress
from ollm_widgets.errors import Cancelled, PlanNotExecutableError, RuntimeClosedError
from ollm_widgets.runtime.residency.flight import Flight
from ollm_widgets.runtime.residency.ledger import Ledger
from ollm_widgets.runtime.residency.movers import Movers
from ollm_widgets.runtime.residency.places import added, needed_bytes
from ollm_widgets.runtime.residency.records import Waiting
from ollm_widgets.runtime.residency.room import holders, next_step
from ollm_widgets.runtime.residency.shared import SharedLedger
from ollm_widgets.runtime.residency.steps import (
    Close,
    Demote,
    Enter,
    Gone,
    Hold,
    Journey,
    Refuse,
    ReleaseSpare,
    Step,
    Wait,
)
from ollm_widgets.runtime.residency.wording import for_newcomer, no_room, waits_for
from ollm_widgets.runtime.worker import WAIT_SLICE_S

if TYPE_CHECKING:
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.residency.elsewhere import Loader
    from ollm_widgets.runtime.residency.surroundings import Holder, MemoryGauge, Neighbours

# Free memory changes without a word; what is planned for it is looked at again after so long.
_PLANNED_AGAIN_S = 1.0

Needs = Callable[[], Mapping[str, int]]


class Admission:
    """Lets journeys into memory, one step of the ledger after the other.

    Parameters
    ----------
    shared
        The ledger.
    movers
        Who closes and demotes.
    gauge
        How full memories are.
    neighbours
        The other kernels; None where there are none to be seen.
    clock
        Seconds, for how long somebody is waited for.
    """

    def __init__(
        self,
        shared: SharedLedger,
        movers: Movers,
        gauge: MemoryGauge,
        neighbours: Neighbours | None,
        clock: Callable[[], float],
    ) -> None:
        self._shared = shared
        self._movers = movers
        self._gauge = gauge
        self._neighbours = neighbours
        self._clock = clock

    def enter_load(self, flight: Flight, loader: Loader, config: RuntimeConfig) -> None:
        """Make room for a load, and let it in; see `enter`.

        It is planned as if idle runtimes had gone that nobody pinned. What is loaded elsewhere
        needs no room here.

        Raises
        ------
        OllmError
            As `enter`; or why the model cannot run, whoever leaves.
        """

        def needs() -> Mapping[str, int]:
            if flight.journey.elsewhere:
                return {}
            return needed_bytes(self._planned(flight.journey, loader, config))

        self.enter(flight, needs)

    def enter(self, flight: Flight, needs: Needs) -> None:
        """Make room, and let the journey in.

        Parameters
        ----------
        needs
            Says what it needs, by place, as things are now.

        Raises
        ------
        NoRoomError
            When there is none, and none comes in time.
        RuntimeClosedError
            When what should come back has left.
        Cancelled
            When nobody waits for it any more.
        """
        journey = flight.journey
        patience = _Patience(self._clock, self._shared.options.busy_wait_s)
        measured_version, planned_at = -1, 0.0
        while True:
            if flight.cancel.is_set():
                raise Cancelled(f"Loading {journey.name} was cancelled while it waited for room.")
            now = self._clock()
            fresh = self._shared.version != measured_version or now - planned_at >= _PLANNED_AGAIN_S
            if fresh:
                self._measure()
                needed = needs()
                measured_version, planned_at = self._shared.version, now
            step = self._ask(journey, needed)
            version = self._shared.version
            if isinstance(step, Enter):
                return
            if isinstance(step, Gone):
                raise RuntimeClosedError(f"{journey.name} has left memory meanwhile.")
            if isinstance(step, Close):
                if self._movers.close_if_idle(step.resident, "evicted", _for(journey, step)):
                    continue
            elif isinstance(step, Demote):
                # Where it cannot go, the next step closes it.
                with contextlib.suppress(Exception):
                    self._movers.demote(step.resident, _for(journey, step))
                continue
            elif isinstance(step, ReleaseSpare):
                self._movers.release_spare(step.resident)
                continue
            elif isinstance(step, Refuse) and not fresh:
                measured_version = -1
                continue
            else:
                self._hold_on(flight, step, patience)
                if journey.under_way:
                    return
            self._shared.wait(version, WAIT_SLICE_S)

    # ------------------------------------------------------------------ one step

    def _ask(self, journey: Journey, needed: Mapping[str, int]) -> Step:
        """Ask the ledger, and let it note what is about to be done."""
        free = {place: level.free_bytes for place, level in self._gauge.levels().items()}
        with self._shared.open() as ledger:
            ledger.ask(journey, needed)
            step = next_step(ledger, journey, free)
            if isinstance(step, Enter):
                self._let_in(ledger, journey)
            elif isinstance(step, Close):
                ledger.begin_close(step.resident)
            elif isinstance(step, Demote):
                ledger.begin_demotion(step.resident)
                self._shared.tell("demoting", step.resident, _for(journey, step))
        return step

    def _let_in(self, ledger: Ledger, journey: Journey) -> None:
        journey.waiting = None
        ledger.enter(journey)
        if journey.resident is None:
            self._shared.tell("loading", journey.name)
        else:
            self._shared.tell("returning", journey.resident)

    def _hold_on(self, flight: Flight, step: Step, patience: _Patience) -> None:
        """Wait for those in the way, or give up."""
        journey = flight.journey
        holds, short = (step.holds, step.short) if isinstance(step, Wait | Refuse) else ((), {})
        if isinstance(step, Wait) and step.ends_by_itself:
            patience.renew()
        asked = self._ask_others(short, patience)
        if isinstance(step, Refuse) and short and not holds and not asked:
            # Nobody here holds it, and nobody can be asked: the load says in numbers what lacks.
            with self._shared.open() as ledger:
                self._let_in(ledger, journey)
            return
        if patience.is_over or (isinstance(step, Refuse) and not asked):
            raise self._no_room(journey, short)
        self._note_waiting(flight, holds, asked)

    def _ask_others(self, short: Mapping[str, int], patience: _Patience) -> tuple[Holder, ...]:
        """Ask other kernels for what lacks, once; returns who was asked."""
        if self._neighbours is None:
            return ()
        for place, size in short.items():
            if place not in patience.asked:
                patience.asked[place] = self._neighbours.ask(place, size)
        asked = {other.pid: other for place in short for other in patience.asked[place]}
        return tuple(asked.values())

    def _note_waiting(self, flight: Flight, holds: Sequence[Hold], asked: Sequence[Holder]) -> None:
        journey = flight.journey
        others = (f"{other.title} (another kernel)" for other in asked)
        names = (*(hold.name for hold in holds), *others)
        earlier = journey.waiting
        if earlier is not None and earlier.holders == names:
            return
        since = time.time() if earlier is None else earlier.since
        with self._shared.open():
            journey.waiting = Waiting(journey.name, names, since)
            about = journey.resident or journey.name
            self._shared.tell("waiting", about, waits_for(holds, asked))
        if earlier is None:
            flight.report(LoadProgress("Wait for room", 0, 0))

    def _no_room(self, journey: Journey, short: Mapping[str, int]) -> Exception:
        others = self._neighbours.others() if self._neighbours is not None and short else ()
        holding = tuple(
            other for other in others if any(other.held_bytes(place) for place in short)
        )
        now = self._clock()
        with self._shared.open() as ledger:
            return no_room(
                journey.name,
                holders(ledger, journey, short),
                ledger.residents,
                holding,
                group=journey.group,
                short=short,
                max_loaded=ledger.options.max_loaded,
                now=now,
            )

    # ------------------------------------------------------------------ planning

    def _planned(self, journey: Journey, loader: Loader, config: RuntimeConfig) -> RuntimePlan:
        """Plan it as if those had gone that may; else as if all of ours had, and others' too.

        Raises
        ------
        OllmError
            If it could not run even then.
        """
        with self._shared.open() as ledger:
            idle = [one.held for one in ledger.residents.values() if ledger.can_leave(one, journey)]
            ours = [one.held for one in ledger.residents.values()]
        plan = _plan_without(loader, config, idle)
        if not _can_run(plan) and len(ours) > len(idle):
            plan = _plan_without(loader, config, ours)
        if not _can_run(plan) and self._neighbours is not None:
            theirs = [
                runtime.held_bytes
                for other in self._neighbours.others()
                for runtime in other.runtimes
            ]
            if theirs:
                plan = _plan_without(loader, config, [*ours, *theirs])
        if not _can_run(plan):
            if not plan.resolved_model.is_supported():
                raise plan.resolved_model.refusal()
            raise PlanNotExecutableError(plan.reason)
        return plan

    def _measure(self) -> None:
        with self._shared.open() as ledger:
            residents = list(ledger.staying())
        self._movers.measure(residents)


class _Patience:
    """How long somebody still waits, and whom it has asked."""

    def __init__(self, clock: Callable[[], float], wait_s: float) -> None:
        self._clock = clock
        self._wait_s = wait_s
        self._until = clock() + wait_s
        self.asked: dict[str, tuple[Holder, ...]] = {}

    @property
    def is_over(self) -> bool:
        """Whether it has waited long enough."""
        return self._clock() >= self._until

    def renew(self) -> None:
        """Begin anew: what is in the way ends by itself."""
        self._until = self._clock() + self._wait_s


def _can_run(plan: RuntimePlan) -> bool:
    return plan.is_executable() or plan.needs_files


def _plan_without(
    loader: Loader, config: RuntimeConfig, held: Sequence[Mapping[str, int]]
) -> RuntimePlan:
    more_bytes = {place: size for place, size in added(held).items() if size}
    return loader.plan_with(config, more_bytes) if more_bytes else loader.plan(config)


def _for(journey: Journey, step: Close | Demote) -> str:
    return for_newcomer(journey.name, step.resident.name)
