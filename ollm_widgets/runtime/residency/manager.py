"""Runtimes that stay in memory next to the user's variables."""

from __future__ import annotations

import atexit
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ollm_widgets.errors import RuntimeBusyError, RuntimeClosedError
from ollm_widgets.planning.parts import listed
from ollm_widgets.runtime.interface import Pinnable
from ollm_widgets.runtime.residency.admission import Admission
from ollm_widgets.runtime.residency.arrivals import Arrivals
from ollm_widgets.runtime.residency.departures import Departures
from ollm_widgets.runtime.residency.gauge import SystemGauge
from ollm_widgets.runtime.residency.landing import Landing
from ollm_widgets.runtime.residency.ledger import Ledger
from ollm_widgets.runtime.residency.movers import Movers
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
from ollm_widgets.runtime.residency.news import Subscriber
from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.runtime.residency.places import needed_bytes
from ollm_widgets.runtime.residency.porter import Porter
from ollm_widgets.runtime.residency.records import (
    Demoted,
    Lease,
    Resident,
    RuntimeEvent,
    Unloaded,
    Waiting,
)
from ollm_widgets.runtime.residency.requests import bytes_free_for, plan_for, request_for
from ollm_widgets.runtime.residency.room import would_leave
from ollm_widgets.runtime.residency.shared import SharedLedger
from ollm_widgets.runtime.residency.surroundings import HeldRuntime
from ollm_widgets.runtime.residency.watchdog import Watchdog
from ollm_widgets.runtime.residency.wording import asked_by
from ollm_widgets.runtime.worker import WAIT_SLICE_S
from ollm_widgets.settings import residency_settings

if TYPE_CHECKING:
    from ollm_widgets.backends.base import ProgressSink
    from ollm_widgets.planning.advice import Advice
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.elsewhere import Elsewhere, Loader
    from ollm_widgets.runtime.residency.surroundings import (
        Holder,
        MemoryGauge,
        Neighbours,
        Plea,
    )

# How long a kernel that ends waits for loads to see that they are cancelled.
_FAREWELL_S = 5.0

_log = logging.getLogger(__name__)


class RuntimeManager:
    """Hands out leases on loaded runtimes, loading each model once.

    Parameters
    ----------
    loader
        Loads what is not in memory.
    max_loaded
        Most runtimes to keep; None for no limit but memory.
    busy_wait_s, idle_timeout_s, busy_timeout_s, pressure, demotes
        See `ResidencyOptions`. What is None comes from the environment, else is the default.
    gauge
        How full memories are; None looks at this machine.
    neighbours
        Other kernels; None looks for those of this user on this machine.
    cluster
        Other machines that load what belongs there; None for this one alone.
    clock
        Seconds, for all waits and timeouts.
    """

    def __init__(
        self,
        loader: Loader | None = None,
        max_loaded: int | None = None,
        *,
        busy_wait_s: float | None = None,
        idle_timeout_s: float | None = None,
        busy_timeout_s: float | None = None,
        pressure: float | None = None,
        demotes: bool | None = None,
        gauge: MemoryGauge | None = None,
        neighbours: Neighbours | None = None,
        cluster: Elsewhere | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        given: dict[str, Any] = {
            "max_loaded": max_loaded,
            "busy_wait_s": busy_wait_s,
            "idle_timeout_s": idle_timeout_s,
            "busy_timeout_s": busy_timeout_s,
            "pressure": pressure,
            "demotes": demotes,
        }
        chosen: dict[str, Any] = {**residency_settings()}
        chosen |= {name: value for name, value in given.items() if value is not None}
        options = ResidencyOptions(**chosen)
        self._own_loader = loader
        self._loader: Loader | None = None
        self._making = threading.Lock()
        self._clock = clock
        self.gauge: MemoryGauge = gauge or SystemGauge()
        self.neighbours: Neighbours = neighbours or KernelNeighbours()
        self.cluster = cluster
        self._porter = Porter(self, self.neighbours, clock)
        self._shared = SharedLedger(Ledger(options), self._porter.show)
        self._movers = Movers(self._shared)
        admission = Admission(self._shared, self._movers, self.gauge, self.neighbours, clock)
        landing = Landing(self._shared, self._movers, admission, self._porter, clock)
        self._arrivals = Arrivals(self._shared, landing, self._porter, clock)
        self._departures = Departures(self._shared, self._movers, self._arrivals, clock)
        self._watchdog = Watchdog(self, self.gauge, self.neighbours, clock=clock)
        weakref.finalize(self, self._porter.end).atexit = False
        farewell = functools.partial(_close_at_exit, weakref.ref(self))
        atexit.register(farewell)
        weakref.finalize(self, atexit.unregister, farewell).atexit = False

    @property
    def loader(self) -> Loader:
        """The loader; made on first use, since it brings the planning code."""
        with self._making:
            if self._loader is None:
                own = self._own_loader = self._own_loader or _loader_of_this_machine()
                self._loader = own if self.cluster is None else self.cluster.over(own)
            return self._loader

    @property
    def options(self) -> ResidencyOptions:
        """Limits and times by now."""
        return self._shared.options

    def configure(self, **changes: Any) -> ResidencyOptions:
        """Change limits and times from now on; an unknown name is a TypeError.

        What is in memory beyond a smaller limit goes with the next load.

        Raises
        ------
        ConfigError
            For a value that cannot work.
        """
        with self._shared.open() as ledger:
            ledger.options = options = replace(ledger.options, **changes)
            ledger.version += 1
        self._watchdog.poke()
        return options

    def use_cluster(self, cluster: Elsewhere | None) -> None:
        """Load on other machines from now on what belongs there.

        Parameters
        ----------
        cluster
            In place of the one before, which this leaves; None for this machine alone.

        Raises
        ------
        RuntimeBusyError
            While something runs on the one before.
        """
        there = [one.id for one in self.residents() if one.elsewhere]
        if there:
            runs = "runs" if len(there) == 1 else "run"
            raise RuntimeBusyError(
                f"{listed(there)} {runs} on the cluster that is in use.", hint="Unload first."
            )
        with self._making:
            before, self.cluster, self._loader = self.cluster, cluster, None
        if before is not None:
            before.leave()

    def __repr__(self) -> str:
        ids = ", ".join(one.id for one in self.residents()) or "nothing"
        return f"<RuntimeManager: {ids} in memory>"

    # ------------------------------------------------------------------ getting a runtime

    def acquire(
        self,
        config: RuntimeConfig,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
        *,
        retry: bool = False,
        anyway: bool = False,
    ) -> Lease:
        """Lease the runtime for `config`, loading it if it is not in memory.

        Callers that ask for the same thing share one load and its progress. A caller whose
        `cancel` is set leaves; the load ends only when nobody waits for it any more. When
        a shared load fails, whoever waited tries once more. What failed a moment ago is not tried
        again for a while.

        Where there is no room, idle runtimes make it, the least recently used first, and busy ones
        are waited for; `waiting` and an event say for whom. Pinned ones stay.

        Parameters
        ----------
        progress
            Called with each `LoadProgress`, on some thread.
        cancel
            Set it from another thread to leave.
        retry
            Try again what failed a moment ago.
        anyway
            Let go what is idle, and then load although there may be no room. Two of one group are
            not in memory together all the same.

        Raises
        ------
        Cancelled
            When this caller's `cancel` was set.
        NoRoomError
            When there is no room; it lists who holds it.
        CoolDownError
            When the same load failed a moment ago.
        OllmError
            What the load raised.
        """
        request = request_for(config, self.loader, self._shared, insists=retry, anyway=anyway)
        return self._arrivals.acquire(request, progress, cancel)

    def borrow(
        self,
        runtime_id: str,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Lease:
        """Lease a runtime that is in memory; one in host memory comes back first.

        Raises
        ------
        RuntimeClosedError
            If there is none under that id.
        NoRoomError
            If there is no room on the accelerator for one in host memory.
        Cancelled
            When `cancel` was set.
        """
        return self._arrivals.borrow(runtime_id, progress, cancel)

    def get(self, config_or_id: RuntimeConfig | str) -> Runtime | None:
        """Peek without loading and without marking it busy; None if it is not in memory."""
        keys = None
        if not isinstance(config_or_id, str):
            keys = request_for(config_or_id, self.loader, self._shared).keys
        with self._shared.open() as ledger:
            for resident in ledger.staying():
                found = resident.id == config_or_id if keys is None else resident.keys & keys
                if found and not resident.runtime.closed:
                    return resident.runtime
        return None

    # ------------------------------------------------------------------ looking

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        """Plan what `acquire` would give; loads nothing, and nobody leaves.

        What is in memory under `config` has its own plan. Else it is planned as if those had left
        that may: idle ones that nobody has pinned.

        Raises
        ------
        ConfigError
            If a field of `config` holds a value that cannot work.
        """
        return plan_for(config, self.loader, self._shared)

    def explain(self, plan: RuntimePlan) -> str:
        """Tell a plan of `plan` in sentences, with the one change that would help it most."""
        return self.loader.explain(plan, bytes_free_for(plan, self._shared))

    def advice(self, plan: RuntimePlan) -> Advice | None:
        """Find the one change that would help a plan of `plan` most; None if none would.

        Raises
        ------
        ConfigError
            If the plan's config no longer works.
        """
        return self.loader.advice(plan, bytes_free_for(plan, self._shared))

    def would_leave(self, plan: RuntimePlan) -> tuple[Resident, ...]:
        """Who would make room for a plan, the first one first; none where there is room.

        They go to host memory, or out of it. What runs on a node of a cluster needs none of it.
        """
        if plan.node:
            return ()
        free = {place: level.free_bytes for place, level in self.gauge.levels().items()}
        with self._shared.open() as ledger:
            if any(one.runtime.plan is plan for one in ledger.staying()):
                return ()
            group = plan.config.concurrency_group
            return tuple(would_leave(ledger, needed_bytes(plan), group, free))

    def residents(self) -> tuple[Resident, ...]:
        """Everything in memory, most recently used first."""
        with self._shared.open() as ledger:
            return tuple(reversed(ledger.by_use()))

    def loading(self) -> tuple[str, ...]:
        """Names of what is being loaded, or waits for it."""
        return self._arrivals.names_on_their_way()

    def waiting(self) -> tuple[Waiting, ...]:
        """Who waits for room, and for whom; who has waited longest first."""
        with self._shared.open() as ledger:
            found = (journey.waiting for journey in ledger.journeys.values())
            return tuple(one for one in found if one is not None)

    def history(self) -> tuple[RuntimeEvent, ...]:
        """The last 200 events, the newest last."""
        with self._shared.open():
            return self._shared.news.history()

    def others(self) -> tuple[Holder, ...]:
        """Other kernels of this machine that keep runtimes."""
        return self.neighbours.others()

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call `callback` with each `RuntimeEvent`, in order, on some thread.

        It is called with no lock held, so it may call the manager.

        Returns
        -------
        callable
            Ends the subscription; calling it twice is harmless.
        """
        return self._shared.news.subscribe(callback)

    # ------------------------------------------------------------------ keeping and giving back

    def pin(self, runtime_id: str) -> None:
        """Never evict this runtime to make room."""
        self._set_pinned(runtime_id, True)

    def unpin(self, runtime_id: str) -> None:
        """Allow eviction again."""
        self._set_pinned(runtime_id, False)

    def unload(self, runtime_id: str, force: bool = False) -> Unloaded:
        """Close a runtime and give its memory back, pinned or not.

        Parameters
        ----------
        force
            Cancel what runs instead of waiting for it.

        Raises
        ------
        RuntimeClosedError
            If there is none under that id.
        RuntimeBusyError
            If it stays busy longer than the manager waits.
        """
        return self._departures.unload(runtime_id, force=force)

    def unload_all(self, force: bool = False) -> tuple[Unloaded, ...]:
        """Unload every runtime, pinned ones too, and those that nobody uses first.

        Raises
        ------
        RuntimeBusyError
            If one stays busy longer than the manager waits; the others have gone all the same.
        """
        changes, busy = [], None
        for resident in sorted(self.residents(), key=lambda resident: resident.in_use):
            try:
                changes.append(self.unload(resident.id, force))
            except RuntimeClosedError:
                continue  # it went by itself
            except RuntimeBusyError as error:
                busy = busy or error
        if busy is not None:
            raise busy
        return tuple(changes)

    def demote(self, runtime_id: str) -> Demoted:
        """Move a runtime's accelerator bytes to host memory; its next use brings them back.

        Raises
        ------
        RuntimeClosedError
            If there is none under that id.
        RuntimeBusyError
            If it stays busy longer than the manager waits.
        ConfigError
            If nothing of it can move.
        OutOfMemory
            If host memory has no room; it stays as it was.
        """
        return self._departures.demote(runtime_id)

    def close(self) -> None:
        """Cancel what is loaded, unload everything, and leave no trace for other kernels.

        What runs on a cluster stays in memory there.
        """
        if self.cluster is not None:
            try:
                self.cluster.leave()
            except Exception:
                # Whoever ends here is missed there soon; what is on this machine has to go now.
                _log.warning("The cluster was not told that this process leaves", exc_info=True)
        self._arrivals.close()
        self._watchdog.close()
        until = time.monotonic() + _FAREWELL_S
        while self.loading() and time.monotonic() < until:
            self._shared.wait(self._shared.version, WAIT_SLICE_S)
        self.unload_all(force=True)
        self._porter.end()
        self.neighbours.close()

    # ------------------------------------------------------------------ for the watchdog

    def evict_if_idle(self, runtime_id: str, detail: str) -> Unloaded | None:
        """Unload it unless somebody uses it or has pinned it by now; None if it stays."""
        return self._departures.evict_if_idle(runtime_id, detail)

    def demote_if_idle(self, runtime_id: str, detail: str) -> Demoted | None:
        """Demote it unless somebody uses it or has pinned it by now; None if it stays."""
        return self._departures.demote_if_idle(runtime_id, detail)

    def cancel_running(self, runtime_id: str, detail: str) -> None:
        """End the request that runs in it."""
        with self._shared.open() as ledger:
            resident = ledger.resident(runtime_id)
        if resident.runtime.cancel_running():
            with self._shared.open():
                self._shared.tell("cancelled", resident, detail)

    def note_asked(self, plea: Plea, freed_bytes: int) -> None:
        """Tell subscribers that another kernel asked for memory, and what it got."""
        with self._shared.open():
            self._shared.tell("asked", plea.asker_title, asked_by(plea, freed_bytes))

    # ------------------------------------------------------------------ for the porter

    def give_back(self, resident: Resident) -> None:
        """Release a lease that was collected."""
        self._arrivals.release(resident)

    def shown(self) -> Sequence[HeldRuntime]:
        """Return what other kernels shall see."""
        residents = [
            one for one in self.residents() if one.state != "leaving" and not one.elsewhere
        ]
        self._movers.measure(residents)
        now = self._clock()
        return [_shown(resident, now) for resident in residents]

    # ------------------------------------------------------------------ inside

    def _set_pinned(self, runtime_id: str, pinned: bool) -> None:
        with self._shared.open() as ledger:
            resident = ledger.resident(runtime_id)
            ledger.pin(resident, pinned)
            self._shared.tell("pinned" if pinned else "unpinned", resident)
        if isinstance(resident.runtime, Pinnable):
            resident.runtime.set_pinned(pinned)


def _loader_of_this_machine() -> Loader:
    from ollm_widgets.runtime.loader import RuntimeLoader

    return RuntimeLoader()


def _shown(resident: Resident, now: float) -> HeldRuntime:
    state = "pinned" if resident.pinned else "demoted" if resident.state == "demoted" else "idle"
    idle_s = 0.0 if resident.in_use else max(now - resident.last_used, 0.0)
    return HeldRuntime(
        resident.name, "busy" if resident.in_use else state, idle_s, dict(resident.held)
    )


def _close_at_exit(manager: weakref.ref[RuntimeManager]) -> None:
    kept = manager()
    if kept is not None:
        kept.close()
