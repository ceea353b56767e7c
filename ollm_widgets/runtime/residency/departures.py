"""Who leaves, or goes to host memory, because somebody says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ollm_widgets.runtime.residency.arrivals import Arrivals
from ollm_widgets.runtime.residency.ledger import Ledger
from ollm_widgets.runtime.residency.movers import Movers
from ollm_widgets.runtime.residency.records import Demoted, Resident, Unloaded
from ollm_widgets.runtime.residency.shared import SharedLedger
from ollm_widgets.runtime.residency.wording import still_busy
from ollm_widgets.runtime.worker import WAIT_SLICE_S

_Begin: TypeAlias = Callable[[Ledger, Resident], None]


class Departures:
    """Waits until a runtime may go, and lets it go.

    Parameters
    ----------
    shared
        The ledger.
    movers
        Who closes and demotes.
    arrivals
        Where a return can be cancelled.
    clock
        Seconds.
    """

    def __init__(
        self,
        shared: SharedLedger,
        movers: Movers,
        arrivals: Arrivals,
        clock: Callable[[], float],
    ) -> None:
        self._shared = shared
        self._movers = movers
        self._arrivals = arrivals
        self._clock = clock

    def unload(self, runtime_id: str, *, force: bool) -> Unloaded:
        """Close it once nobody uses it; with force, at once."""
        while True:
            resident = self._when_free(runtime_id, Ledger.begin_close, force=force)
            if force:
                return self._movers.close(resident, "unloaded")
            change = self._movers.close_if_idle(resident, "unloaded")
            if change is not None:
                return change

    def demote(self, runtime_id: str) -> Demoted:
        """Demote it once nobody uses it."""
        resident = self._when_free(runtime_id, Ledger.begin_demotion)
        return self._movers.demote(resident)

    def evict_if_idle(self, runtime_id: str, detail: str) -> Unloaded | None:
        """Close it unless somebody uses it or has pinned it; None if it stays."""
        resident = self._if_idle(runtime_id, Ledger.begin_close)
        return None if resident is None else self._movers.close_if_idle(resident, "evicted", detail)

    def demote_if_idle(self, runtime_id: str, detail: str) -> Demoted | None:
        """Demote it unless somebody uses it or has pinned it; None if it stays."""
        resident = self._if_idle(runtime_id, Ledger.begin_demotion)
        return None if resident is None else self._movers.demote(resident, detail)

    def _when_free(self, runtime_id: str, begin: _Begin, *, force: bool = False) -> Resident:
        """Begin to move or close a runtime as soon as nobody uses it; with force, at once."""
        wait_s = self._shared.options.busy_wait_s
        until = self._clock() + wait_s
        wanted: Resident | None = None
        while True:
            with self._shared.open() as ledger:
                resident = ledger.residents.get(runtime_id)
                if resident is None or (wanted is not None and resident is not wanted):
                    raise ledger.missing(runtime_id)
                wanted = resident
                is_settled = resident.state in ("ready", "demoted")
                if is_settled and (force or not resident.in_use):
                    begin(ledger, resident)
                    return resident
                if force:
                    self._arrivals.cancel_return(resident)
                version = ledger.version
            if self._clock() >= until:
                raise still_busy(resident, wait_s)
            self._shared.wait(version, WAIT_SLICE_S)

    def _if_idle(self, runtime_id: str, begin: _Begin) -> Resident | None:
        """Begin to move or close a runtime that nobody uses, wants back or has pinned."""
        with self._shared.open() as ledger:
            resident = ledger.residents.get(runtime_id)
            if resident is None or not ledger.is_free(resident):
                return None
            if any(journey.resident is resident for journey in ledger.journeys.values()):
                return None
            begin(ledger, resident)
            return resident
