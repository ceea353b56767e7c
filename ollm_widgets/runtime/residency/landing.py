"""How a runtime comes into memory, on the thread of its flight."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import Cancelled, OllmError
from ollm_widgets.runtime.letting_go import let_go
from ollm_widgets.runtime.residency.admission import Admission
from ollm_widgets.runtime.residency.cooling import CoolDowns
from ollm_widgets.runtime.residency.failing import cools_down, joined, may_mend
from ollm_widgets.runtime.residency.flight import Flight
from ollm_widgets.runtime.residency.identity import planned_key
from ollm_widgets.runtime.residency.ledger import Ledger
from ollm_widgets.runtime.residency.movers import Movers
from ollm_widgets.runtime.residency.porter import Porter
from ollm_widgets.runtime.residency.records import Resident
from ollm_widgets.runtime.residency.requests import Request
from ollm_widgets.runtime.residency.shared import SharedLedger

if TYPE_CHECKING:
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.interface import Runtime


class Landing:
    """Loads, and brings back from host memory.

    Parameters
    ----------
    shared
        The ledger.
    movers
        Who brings back.
    admission
        Who makes room.
    porter
        Who is needed from the first runtime on.
    clock
        Seconds.

    Attributes
    ----------
    flights
        What is on its way, by the number of its journey; looked at with the ledger open.
    cooling
        What failed a moment ago; looked at with the ledger open.
    """

    def __init__(
        self,
        shared: SharedLedger,
        movers: Movers,
        admission: Admission,
        porter: Porter,
        clock: Callable[[], float],
    ) -> None:
        self.flights: dict[int, Flight] = {}
        self.cooling = CoolDowns()
        self._shared = shared
        self._movers = movers
        self._admission = admission
        self._porter = porter
        self._clock = clock

    def load(self, request: Request, flight: Flight) -> Resident:
        """Make room and load; the whole of a flight."""
        try:
            runtime = self._loaded(request, flight)
            resident = self._resident_of(runtime, request)
        except BaseException as error:
            self.failed(flight, error)
            raise
        with self._shared.open() as ledger:
            resident.id = ledger.free_id(runtime.name)
            self.cooling.forget(request.asked)
            self._land(ledger, flight, resident)
            self._shared.tell("loaded", resident)
            if resident.leases:
                self._shared.tell("busy", resident)
        return resident

    def _loaded(self, request: Request, flight: Flight) -> Runtime:
        """Load by the plan's backend; where none was asked for, by those that may do better.

        A node brings the files to where it is, and tries its backends itself.
        """
        config, loader = request.config, request.loader
        if request.plan.needs_files and not request.elsewhere:
            # Before anybody has to go for it.
            loader.download(
                config.model_reference,
                config.models_dir,
                config.force_download,
                flight.report,
                flight.cancel,
            )
            config = config.copy(force_download=False)
        tries = [(request.plan, config)]
        failures: list[tuple[str, Exception]] = []
        while tries:
            plan, config = tries.pop(0)
            try:
                self._admission.enter_load(flight, loader, config)
            except OllmError as error:
                if failures and not isinstance(error, Cancelled):
                    continue  # there is no room for this one
                raise
            try:
                return loader.load(config, flight.report, flight.cancel)
            except Cancelled:
                raise
            except Exception as error:
                let_go(error)
                self._note_failure(request, flight, plan, error)
                if not failures:
                    tries = self._others(request, plan, error)
                failures.append((str(plan.backend_id), error))
        raise joined(request.name, failures)

    def _others(
        self, request: Request, plan: RuntimePlan, error: Exception
    ) -> list[tuple[RuntimePlan, RuntimeConfig]]:
        """Return the plans that may work where this one failed."""
        if request.elsewhere:
            return []
        try:
            plans = request.loader.other_plans(plan)
        except OllmError:
            return []  # the first error says more
        with self._shared.open():
            now = self._clock()
            return [
                (other, other.config)
                for other in plans
                if may_mend(error, plan, other)
                and not self.cooling.seconds_left(request.asked, str(other.backend_id), now)
            ]

    def _note_failure(
        self, request: Request, flight: Flight, plan: RuntimePlan, error: Exception
    ) -> None:
        with self._shared.open() as ledger:
            ledger.step_back(flight.journey)
            if cools_down(error):
                backend = str(plan.backend_id)
                self.cooling.failed(request.asked, backend, str(error), self._clock())

    def _resident_of(self, runtime: Runtime, request: Request) -> Resident:
        elsewhere = bool(runtime.plan.node)
        resident = Resident(
            id="",
            runtime=runtime,
            keys={*request.asked, planned_key(runtime.plan)},
            last_used=self._clock(),
            group=None if elsewhere else request.config.concurrency_group,
            elsewhere=elsewhere,
        )
        self._movers.measure((resident,))
        # The runtime must not keep alive what keeps it.
        runtime.watch_activity(
            functools.partial(_tell_activity, weakref.ref(self), weakref.ref(resident))
        )
        self._porter.start()
        return resident

    def bring_back(self, resident: Resident, flight: Flight) -> Resident:
        """Make room and bring back from host memory; the whole of a flight."""
        try:
            self._admission.enter(flight, lambda: resident.away)
            change = self._movers.restore(resident, flight.report, flight.cancel)
        except BaseException as error:
            self.failed(flight, error)
            raise
        with self._shared.open() as ledger:
            self._land(ledger, flight, resident)
            self._shared.tell("returned", resident, change=change)
            if resident.leases:
                self._shared.tell("busy", resident)
        return resident

    def _land(self, ledger: Ledger, flight: Flight, resident: Resident) -> None:
        ledger.landed(flight.journey, resident, self._clock())
        del self.flights[flight.journey.number]

    def failed(self, flight: Flight, error: BaseException) -> None:
        """End a flight that brought nothing."""
        with self._shared.open() as ledger:
            ledger.failed(flight.journey)
            del self.flights[flight.journey.number]
            resident = flight.journey.resident
            if isinstance(error, Cancelled) and resident is None:
                self._shared.tell("cancelled", flight.name)
            else:
                detail = str(error) or type(error).__name__
                self._shared.tell("failed", resident or flight.name, detail)

    def activity(self, resident: Resident, busy: bool) -> None:
        """Note that requests run or wait in a runtime, under a lease or not."""
        with self._shared.open() as ledger:
            has_changed = ledger.activity(resident, busy, self._clock())
            stays = ledger.residents.get(resident.id) is resident and resident.state != "leaving"
            if has_changed and stays:
                self._shared.tell("busy" if busy else "idle", resident)


def _tell_activity(
    landing: weakref.ref[Landing], resident: weakref.ref[Resident], busy: bool
) -> None:
    kept, known = landing(), resident()
    if kept is not None and known is not None:
        kept.activity(known, busy)
