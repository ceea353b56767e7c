"""The one thread that looks after runtimes while nobody calls."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol

from ollm_widgets.runtime.residency.options import ResidencyOptions
from ollm_widgets.runtime.residency.records import (
    Demoted,
    MemoryChange,
    Resident,
    RuntimeEvent,
    Unloaded,
)
from ollm_widgets.runtime.residency.surroundings import RAM, MemoryGauge, Neighbours, Plea
from ollm_widgets.runtime.residency.upkeep import (
    TICK_S,
    Action,
    AnswerPlea,
    CancelBusy,
    Demote,
    Unload,
    Watched,
    due,
)

# A runtime that could not be moved is left alone for so long.
PAUSE_S = 60.0
_JOIN_S = 2.0

_log = logging.getLogger(__name__)


class Keeper(Protocol):
    """What the watchdog needs of a manager; it calls without holding anything."""

    @property
    def options(self) -> ResidencyOptions:
        """Limits and times by now."""
        ...

    def residents(self) -> Sequence[Resident]:
        """Everything in memory."""
        ...

    def subscribe(self, callback: Callable[[RuntimeEvent], None]) -> Callable[[], None]:
        """Call `callback` with each change."""
        ...

    def demote_if_idle(self, runtime_id: str, detail: str) -> Demoted | None:
        """Demote it unless somebody uses it or has pinned it by now; None if it stays."""
        ...

    def evict_if_idle(self, runtime_id: str, detail: str) -> Unloaded | None:
        """Unload it unless somebody uses it or has pinned it by now; None if it stays."""
        ...

    def cancel_running(self, runtime_id: str, detail: str) -> None:
        """End the request that runs in it."""
        ...

    def note_asked(self, plea: Plea, freed_bytes: int) -> None:
        """Tell subscribers that another kernel asked for memory, and what it got."""
        ...


class Watchdog:
    """Demotes, unloads, cancels and answers when it is time; see `due`.

    Its thread starts with the manager's first event, sleeps until something is due or has changed,
    and looks at memory and other kernels every few seconds only while something is resident. It
    ends with the manager, which it does not keep alive.

    Parameters
    ----------
    manager
        Whose runtimes.
    gauge
        How full memories are.
    neighbours
        Who may ask for memory; None for nobody.
    clock
        The manager's; seconds.
    """

    def __init__(
        self,
        manager: Keeper,
        gauge: MemoryGauge,
        neighbours: Neighbours | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # True is a reason to look, False to end. What calls `put` may be the collector, at any
        # line of any thread: this queue allows it.
        self._reasons: queue.SimpleQueue[bool] = queue.SimpleQueue()
        reasons = self._reasons
        self._manager = weakref.ref(manager, lambda _: reasons.put(False))
        self._gauge = gauge
        self._neighbours = neighbours
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._look_at = clock()
        self._left_alone: dict[str, float] = {}
        self._stopped: dict[str, float] = {}
        # What ends the subscription would keep the manager alive.
        manager.subscribe(lambda _event: self.start())

    def start(self) -> None:
        """Look now, on the thread, which this starts the first time."""
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="ollm-watchdog", daemon=True)
                self._thread.start()
        self.poke()

    def poke(self) -> None:
        """Look again, if the thread runs; may be called from anywhere, by the collector too."""
        if not self._closed:
            self._reasons.put(True)

    def close(self) -> None:
        """End the thread, unless it is at work just now: then it ends after that.

        Not to be called with a lock held that the manager's methods take.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        self._reasons.put(False)
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)

    def tick(self) -> float | None:
        """Do what is due; returns when to look again, None when only a change can bring more."""
        manager = self._manager()
        if manager is None:
            return None
        now, options = self._clock(), manager.options
        residents = manager.residents()
        ids = {resident.id for resident in residents}
        self._left_alone = {id: at for id, at in self._left_alone.items() if id in ids and at > now}
        self._stopped = {id: at for id, at in self._stopped.items() if id in ids}
        watched = [
            Watched.of(
                each,
                now,
                self._left_alone.get(each.id, 0.0),
                self._stopped.get(each.id, -math.inf),
            )
            for each in residents
        ]
        if not watched:
            return None
        looks = now >= self._look_at
        pleas = self._neighbours.pleas() if looks and self._neighbours is not None else ()
        if looks:
            self._look_at = now + TICK_S
        levels = self._gauge.levels()
        actions, next_at = due(now, watched, levels, pleas, options, relieves=looks)
        changes: dict[str, MemoryChange] = {}
        for action in actions:
            self._do(manager, action, watched, changes)
        return self._look_at if next_at is None else min(next_at, self._look_at)

    # ------------------------------------------------------------------ inside

    def _run(self) -> None:
        next_at: float | None = None
        while True:
            try:
                wait_s = None if next_at is None else max(next_at - self._clock(), 0.0)
                if not self._reasons.get(timeout=wait_s):
                    return
                while not self._reasons.empty():
                    if not self._reasons.get():
                        return
            except queue.Empty:
                pass
            try:
                next_at = self.tick()
            except Exception:
                # A device that fails, a runtime that leaves while it is looked at.
                _log.exception("Looking after the runtimes in memory failed")
                next_at = self._clock() + TICK_S

    def _do(
        self,
        manager: Keeper,
        action: Action,
        watched: Sequence[Watched],
        changes: dict[str, MemoryChange],
    ) -> None:
        if isinstance(action, AnswerPlea):
            held = {each.id: each for each in watched}
            freed_bytes = sum(
                _freed_bytes(changes[id], held[id], action.plea.place)
                for id in action.ids
                if id in changes
            )
            if self._neighbours is not None:
                self._neighbours.answer(action.plea, freed_bytes)
            manager.note_asked(action.plea, freed_bytes)
            return
        try:
            change: MemoryChange | None = None
            if isinstance(action, CancelBusy):
                self._stopped[action.id] = self._clock()
                manager.cancel_running(action.id, action.why)
                return
            if isinstance(action, Demote):
                change = manager.demote_if_idle(action.id, action.why)
            elif isinstance(action, Unload):
                change = manager.evict_if_idle(action.id, action.why)
        except Exception:
            _log.exception("%s could not be moved", action.id)
            self._left_alone[action.id] = self._clock() + PAUSE_S
            return
        if change is not None:
            changes[action.id] = change
        else:
            self._left_alone[action.id] = self._clock() + TICK_S


def _freed_bytes(change: MemoryChange, before: Watched, place: str) -> int:
    """Return what was given back in one memory; of several accelerators, its share."""
    if place == RAM:
        return max(change.freed_host_bytes, 0)
    freed_bytes = max(change.freed_accelerator_bytes, 0)
    return freed_bytes * before.held_bytes(place) // max(before.accelerator_bytes, 1)
