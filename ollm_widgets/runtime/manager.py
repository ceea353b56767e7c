"""Runtimes that stay in memory next to the user's variables."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import Cancelled, ConfigError, RuntimeBusyError, RuntimeClosedError
from ollm_widgets.runtime.residency import (
    EventKind,
    Lease,
    Resident,
    RuntimeEvent,
    Unloaded,
    residency_key,
)
from ollm_widgets.runtime.single_flight import Flight
from ollm_widgets.runtime.worker import WAIT_SLICE_S

if TYPE_CHECKING:
    from ollm_widgets.backends.base import ProgressSink
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.runtime.loaded import LoadedRuntime
    from ollm_widgets.runtime.loader import RuntimeLoader

Subscriber = Callable[[RuntimeEvent], None]


class RuntimeManager:
    """Hands out leases on loaded runtimes, loading each model once.

    Parameters
    ----------
    loader
        Loads what is not in memory.
    max_loaded
        Most runtimes to keep; None for no limit. The least recently used one goes first,
        never a pinned one; a busy one is waited for.
    busy_wait_s
        How long to wait for a busy runtime before giving up with `RuntimeBusyError`.
    """

    def __init__(
        self,
        loader: RuntimeLoader | None = None,
        max_loaded: int | None = None,
        *,
        busy_wait_s: float = 60.0,
    ) -> None:
        if max_loaded is not None and max_loaded < 1:
            raise ConfigError("max_loaded", f"must be at least 1, got {max_loaded}.")
        self._loader = loader
        self._max_loaded = max_loaded
        self._busy_wait_s = busy_wait_s
        self._changed = threading.Condition(threading.RLock())
        self._residents: dict[str, Resident] = {}
        self._flights: dict[object, Flight] = {}
        self._subscribers: list[Subscriber] = []

    @property
    def loader(self) -> RuntimeLoader:
        """The loader; made on first use, since it brings the planning code."""
        with self._changed:
            if self._loader is None:
                from ollm_widgets.runtime.loader import RuntimeLoader

                self._loader = RuntimeLoader()
            return self._loader

    # ------------------------------------------------------------------ getting a runtime

    def acquire(
        self,
        config: RuntimeConfig,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Lease:
        """Lease the runtime for `config`, loading it if it is not in memory.

        Callers that ask for the same thing share one load and its progress. A caller whose
        `cancel` is set leaves; the load ends only when nobody waits for it any more. When
        a shared load fails, whoever waited tries once more.

        Raises
        ------
        Cancelled
            When this caller's `cancel` was set.
        OllmError
            What the load raised.
        """
        plan = self.loader.plan(config)
        key = residency_key(plan)
        retried = False
        while True:
            with self._changed:
                resident = self._find(key)
                if resident is not None:
                    return self._lease(resident)
                flight = self._flights.get(key)
                if flight is not None and flight.cancel.is_set():
                    # Its passengers have left; once it is gone, a new load can begin.
                    self._changed.wait(timeout=WAIT_SLICE_S)
                    continue
                joined = flight is not None
                flight = flight or self._take_off(key, config, plan.resolved_model.display_name)
                flight.board(progress)
            try:
                return self.borrow(flight.wait(cancel).id)
            except RuntimeClosedError:
                continue  # evicted between its load and our lease
            except Exception:
                if not joined or retried or (cancel is not None and cancel.is_set()):
                    raise
                retried = True
            finally:
                flight.leave(progress)

    def borrow(self, runtime_id: str) -> Lease:
        """Lease a runtime that is in memory.

        Raises
        ------
        RuntimeClosedError
            If there is none under that id.
        """
        with self._changed:
            return self._lease(self._resident(runtime_id))

    def get(self, config_or_id: RuntimeConfig | str) -> LoadedRuntime | None:
        """Peek without loading and without marking it busy; None if it is not in memory."""
        if isinstance(config_or_id, str):
            with self._changed:
                resident = self._residents.get(config_or_id)
        else:
            key = residency_key(self.loader.plan(config_or_id))
            with self._changed:
                resident = self._find(key)
        return resident.runtime if resident else None

    def residents(self) -> tuple[Resident, ...]:
        """Everything in memory, most recently used first."""
        with self._changed:
            return tuple(
                sorted(self._residents.values(), key=lambda one: one.last_used, reverse=True)
            )

    def loading(self) -> tuple[str, ...]:
        """Names of what is being loaded now."""
        with self._changed:
            return tuple(flight.name for flight in self._flights.values())

    # ------------------------------------------------------------------ keeping and giving back

    def pin(self, runtime_id: str) -> None:
        """Never evict this runtime to make room."""
        self._set_pinned(runtime_id, True)

    def unpin(self, runtime_id: str) -> None:
        """Allow eviction again."""
        self._set_pinned(runtime_id, False)

    def unload(self, runtime_id: str, force: bool = False) -> Unloaded:
        """Close a runtime and give its memory back.

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
        deadline = time.monotonic() + self._busy_wait_s
        with self._changed:
            resident = self._resident(runtime_id)
            while not force and resident.leases:
                if not self._changed.wait(timeout=deadline - time.monotonic()):
                    raise RuntimeBusyError(
                        f"{resident.name} is still busy after {self._busy_wait_s:.0f} s.",
                        hint="Stop the answer, or unload with force.",
                    )
            self._residents.pop(runtime_id, None)
            self._changed.notify_all()
        return self._close(resident, "unloaded")

    def unload_all(self, force: bool = False) -> tuple[Unloaded, ...]:
        """Unload every runtime, pinned ones too."""
        return tuple(self.unload(resident.id, force) for resident in self.residents())

    # ------------------------------------------------------------------ events

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call `callback` with each `RuntimeEvent`, on the thread where it happens.

        Returns
        -------
        callable
            Ends the subscription; calling it twice is harmless.
        """
        with self._changed:
            self._subscribers.append(callback)

        def unsubscribe() -> None:
            with self._changed:
                if callback in self._subscribers:
                    self._subscribers.remove(callback)

        return unsubscribe

    def _tell(self, kind: EventKind, runtime_id: str, name: str, detail: str = "") -> None:
        with self._changed:
            subscribers = tuple(self._subscribers)
        event = RuntimeEvent(kind, runtime_id, name, detail)
        for subscriber in subscribers:
            subscriber(event)

    # ------------------------------------------------------------------ inside

    def _find(self, key: object) -> Resident | None:
        return next((one for one in self._residents.values() if key in one.keys), None)

    def _resident(self, runtime_id: str) -> Resident:
        resident = self._residents.get(runtime_id)
        if resident is None:
            known = ", ".join(self._residents) or "none"
            raise RuntimeClosedError(
                f"No runtime {runtime_id!r} is in memory.", hint=f"In memory: {known}."
            )
        return resident

    def _set_pinned(self, runtime_id: str, pinned: bool) -> None:
        with self._changed:
            resident = self._resident(runtime_id)
            resident.pinned = pinned
        self._tell("pinned" if pinned else "unpinned", resident.id, resident.name)

    def _lease(self, resident: Resident) -> Lease:
        resident.leases += 1
        resident.last_used = time.monotonic()
        if resident.leases == 1:
            self._tell("busy", resident.id, resident.name)
        return Lease(resident, self._release)

    def _release(self, resident: Resident) -> None:
        with self._changed:
            resident.leases -= 1
            resident.last_used = time.monotonic()
            idle = resident.leases == 0
            self._changed.notify_all()
        if idle:
            self._tell("idle", resident.id, resident.name)

    def _take_off(self, key: object, config: RuntimeConfig, name: str) -> Flight:
        flight = Flight(name, lambda flight: self._load(key, config, flight))
        self._flights[key] = flight
        flight.start()
        return flight

    def _load(self, key: object, config: RuntimeConfig, flight: Flight) -> Resident:
        """Runs on the flight's own thread, so that a caller can leave."""
        self._tell("loading", "", flight.name)
        try:
            self._make_room(flight.cancel)
            runtime = self.loader.load(config, flight.report, flight.cancel)
        except BaseException as error:
            with self._changed:
                self._flights.pop(key, None)
                self._changed.notify_all()
            self._tell("failed", "", flight.name, str(error))
            raise
        with self._changed:
            resident = Resident(
                id=self._free_id(runtime.name),
                runtime=runtime,
                keys={key, residency_key(runtime.plan)},
                last_used=time.monotonic(),
            )
            self._residents[resident.id] = resident
            self._flights.pop(key, None)
            self._changed.notify_all()
        self._tell("loaded", resident.id, resident.name)
        return resident

    def _make_room(self, cancel: threading.Event) -> None:
        """Evict least recently used runtimes until one more may be kept."""
        if self._max_loaded is None:
            return
        deadline = time.monotonic() + self._busy_wait_s
        while True:
            with self._changed:
                if len(self._residents) < self._max_loaded:
                    return
                free = [one for one in self.residents() if not one.pinned and not one.leases]
                if free:
                    victim = self._residents.pop(free[-1].id)
                else:
                    self._give_up_after(deadline)
                    self._changed.wait(timeout=WAIT_SLICE_S)
                    victim = None
            if cancel.is_set():
                raise Cancelled("Loading was cancelled while it waited for room.")
            if victim is not None:
                self._close(victim, "evicted")

    def _give_up_after(self, deadline: float) -> None:
        if time.monotonic() < deadline and any(not one.pinned for one in self.residents()):
            return
        holders = ", ".join(
            f"{one.id} ({'pinned' if one.pinned else 'busy'})" for one in self.residents()
        )
        raise RuntimeBusyError(
            f"No room for another model: max_loaded is {self._max_loaded}, held by {holders}.",
            hint="Unload or unpin one, or raise max_loaded.",
        )

    def _close(self, resident: Resident, kind: EventKind) -> Unloaded:
        before = resident.runtime.memory()
        resident.runtime.close()
        after = resident.runtime.memory()
        self._tell(kind, resident.id, resident.name)
        return Unloaded(resident.id, resident.name, before, after)

    def _free_id(self, name: str) -> str:
        number = 1
        while (runtime_id := name if number == 1 else f"{name}-{number}") in self._residents:
            number += 1
        return runtime_id


@functools.cache
def default_manager() -> RuntimeManager:
    """The manager that the widgets, the magics and a plain script share."""
    return RuntimeManager()
