"""From a request to a lease, on the thread of the caller."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from ollm_widgets.errors import Cancelled, RuntimeClosedError
from ollm_widgets.runtime.residency.flight import Flight
from ollm_widgets.runtime.residency.landing import Landing
from ollm_widgets.runtime.residency.ledger import Ledger
from ollm_widgets.runtime.residency.porter import Porter
from ollm_widgets.runtime.residency.records import Lease, Resident
from ollm_widgets.runtime.residency.requests import Request
from ollm_widgets.runtime.residency.shared import SharedLedger
from ollm_widgets.runtime.residency.steps import Absent, Answer, Grant, Join, Return
from ollm_widgets.runtime.worker import WAIT_SLICE_S

if TYPE_CHECKING:
    from ollm_widgets.backends.base import ProgressSink


class Arrivals:
    """Hands out leases, and lets come what is not in memory.

    Parameters
    ----------
    shared
        The ledger.
    landing
        Who brings it into memory.
    porter
        Who releases leases that were collected.
    clock
        Seconds.
    """

    def __init__(
        self, shared: SharedLedger, landing: Landing, porter: Porter, clock: Callable[[], float]
    ) -> None:
        self._shared = shared
        self._landing = landing
        self._porter = porter
        self._clock = clock
        self._closed = False

    # ------------------------------------------------------------------ leases

    def acquire(
        self, request: Request, progress: ProgressSink | None, cancel: threading.Event | None
    ) -> Lease:
        """Lease what is asked for; see `RuntimeManager.acquire`."""
        if request.insists:
            with self._shared.open():
                self._landing.cooling.forget(request.asked)
        retried = False
        while True:
            with self._shared.open() as ledger:
                self._forget_closed(ledger)
                answer = ledger.answer(request.keys)
                if isinstance(answer, Grant):
                    return self._granted(ledger, answer.resident, request.asked)
                if isinstance(answer, Absent) and not retried:
                    self._landing.cooling.check(
                        request.asked, str(request.plan.backend_id), request.name, self._clock()
                    )
                flight = self._board(ledger, answer, request)
                version = ledger.version
            if flight is None:
                self._linger(request.name, version, cancel)
                continue
            joins = isinstance(answer, Join)
            try:
                resident = self._ride(flight, progress, cancel, begins=not joins)
            except Cancelled:
                raise
            except Exception as error:
                if _has_left(flight, error):
                    continue  # it left before it came back, so it is loaded
                if not joins or retried or _is_set(cancel):
                    raise
                retried = True
                continue
            if resident.keys.isdisjoint(request.keys):
                self.release(resident)  # it came otherwise than it was planned
                continue
            with self._shared.open():
                resident.keys |= request.asked
            return self._lease(resident)

    def borrow(
        self, runtime_id: str, progress: ProgressSink | None, cancel: threading.Event | None
    ) -> Lease:
        """Lease what is in memory; see `RuntimeManager.borrow`."""
        while True:
            with self._shared.open() as ledger:
                self._forget_closed(ledger)
                resident = ledger.resident(runtime_id)
                answer = ledger.answer_of(resident)
                if isinstance(answer, Grant):
                    return self._granted(ledger, resident, frozenset())
                flight = self._board(ledger, answer, None)
                version = ledger.version
            if flight is None:
                self._linger(resident.name, version, cancel)
                continue
            begins = not isinstance(answer, Join)
            return self._lease(self._ride(flight, progress, cancel, begins=begins))

    def release(self, resident: Resident) -> None:
        """Give a lease back."""
        with self._shared.open() as ledger:
            is_idle = ledger.release(resident, self._clock())
            if is_idle and ledger.residents.get(resident.id) is resident:
                self._shared.tell("idle", resident)

    def names_on_their_way(self) -> tuple[str, ...]:
        """Return the names of what is being loaded, or waits for it."""
        with self._shared.open() as ledger:
            return tuple(one.name for one in ledger.journeys.values() if one.resident is None)

    def cancel_return(self, resident: Resident) -> None:
        """Cancel the return of a runtime, if it is on its way; called with the ledger open."""
        for flight in self._landing.flights.values():
            if flight.journey.resident is resident:
                flight.cancel.set()

    def close(self) -> None:
        """Take no more requests, and cancel what is on its way."""
        with self._shared.open():
            self._closed = True
            for flight in self._landing.flights.values():
                flight.cancel.set()

    # ------------------------------------------------------------------ on the caller's thread

    def _granted(self, ledger: Ledger, resident: Resident, asked: frozenset[Hashable]) -> Lease:
        resident.keys |= asked
        if ledger.lease(resident, self._clock()):
            self._shared.tell("busy", resident)
        return self._lease(resident)

    def _lease(self, resident: Resident) -> Lease:
        """Hand out a lease that the ledger has counted."""
        return Lease(
            resident,
            functools.partial(self.release, resident),
            functools.partial(self._porter.give_back, resident),
        )

    def _board(self, ledger: Ledger, answer: Answer, request: Request | None) -> Flight | None:
        """Join what is on its way, or begin it; None where there is nothing to join yet."""
        if self._closed:
            raise RuntimeClosedError("This manager was closed.", hint="Make another one.")
        if isinstance(answer, Join):
            flight = self._landing.flights[answer.journey.number]
            flight.journey.anyway |= request is not None and request.anyway
            ledger.board(flight.journey)
            return flight
        if isinstance(answer, Return):
            journey = ledger.board_return(answer.resident)
            flight = Flight(journey, functools.partial(self._landing.bring_back, answer.resident))
        elif isinstance(answer, Absent) and request is not None:
            journey = ledger.board_load(
                request.name,
                request.keys,
                request.config.concurrency_group,
                elsewhere=request.elsewhere,
            )
            flight = Flight(journey, functools.partial(self._landing.load, request))
        else:
            return None
        flight.journey.anyway = request is not None and request.anyway
        ledger.board(flight.journey)
        self._landing.flights[flight.journey.number] = flight
        return flight

    def _ride(
        self,
        flight: Flight,
        progress: ProgressSink | None,
        cancel: threading.Event | None,
        *,
        begins: bool,
    ) -> Resident:
        """Wait for a flight that was boarded; who leaves early gives up what came of it."""
        try:
            if begins:
                self._take_off(flight)
            if progress is not None:
                flight.watch(progress)
            return flight.wait(cancel)
        except BaseException:
            with self._shared.open() as ledger:
                is_idle = ledger.leave(flight.journey, self._clock())
                if flight.journey.cancelled:
                    flight.cancel.set()
                if is_idle and flight.journey.landed is not None:
                    self._shared.tell("idle", flight.journey.landed)
            raise
        finally:
            if progress is not None:
                flight.unwatch(progress)

    def _take_off(self, flight: Flight) -> None:
        try:
            flight.start()
        except BaseException as error:  # no thread is to be had
            self._landing.failed(flight, error)
            flight.fail(error)
            raise

    def _linger(self, name: str, version: int, cancel: threading.Event | None) -> None:
        if _is_set(cancel):
            raise Cancelled(f"Loading {name} was cancelled.")
        self._shared.wait(version, WAIT_SLICE_S)

    def _forget_closed(self, ledger: Ledger) -> None:
        """Forget runtimes that somebody closed by hand."""
        for resident in tuple(ledger.residents.values()):
            if resident.state in ("ready", "demoted") and resident.runtime.closed:
                ledger.closed(resident)
                self._shared.tell("unloaded", resident, "It was closed by hand.")


def _has_left(flight: Flight, error: Exception) -> bool:
    return flight.journey.resident is not None and isinstance(error, RuntimeClosedError)


def _is_set(cancel: threading.Event | None) -> bool:
    return cancel is not None and cancel.is_set()
