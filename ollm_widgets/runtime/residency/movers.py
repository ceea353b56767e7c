"""What closing, demoting and measuring do; the ledger is told before and after."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.runtime.memory import MemoryUse
from ollm_widgets.runtime.residency.places import held_bytes
from ollm_widgets.runtime.residency.records import (
    Demoted,
    EventKind,
    MemoryChange,
    Resident,
    Unloaded,
)
from ollm_widgets.runtime.residency.shared import SharedLedger
from ollm_widgets.runtime.residency.surroundings import RAM
from ollm_widgets.runtime.residency.wording import because

if TYPE_CHECKING:
    import threading

    from ollm_widgets.backends.base import ProgressSink


class Movers:
    """Carries residents about; never with the ledger open.

    Parameters
    ----------
    shared
        The ledger.
    """

    def __init__(self, shared: SharedLedger) -> None:
        self._shared = shared

    def measure(self, residents: Iterable[Resident]) -> None:
        """Look how many bytes each holds, and whether it could go to host memory."""
        for resident in residents:
            with contextlib.suppress(RuntimeClosedError):  # it leaves just now
                self._note(resident, resident.runtime.memory())

    def close(self, resident: Resident, kind: EventKind, detail: str = "") -> Unloaded:
        """Close one that was allowed to leave, whatever it does."""
        before = resident.runtime.memory()
        try:
            resident.runtime.close(because(detail))
        finally:
            change = self._left(resident, before, kind, detail)
        return change

    def close_if_idle(
        self, resident: Resident, kind: EventKind, detail: str = ""
    ) -> Unloaded | None:
        """Close one that was allowed to leave, unless a request came first."""
        before = resident.runtime.memory()
        closed = True
        try:
            closed = resident.runtime.close_if_idle(because(detail))
        finally:
            change = self._left(resident, before, kind, detail) if closed else None
        if change is None:
            demoted = resident.runtime.demoted
            with self._shared.open() as ledger:
                ledger.stay(resident, demoted=demoted)
        return change

    def demote(self, resident: Resident, detail: str = "") -> Demoted:
        """Bring one that was allowed to go to host memory there.

        Raises
        ------
        OllmError
            Why it could not; it stays as it was.
        """
        before = resident.runtime.memory()
        try:
            resident.runtime.demote()
        except BaseException as error:
            self._demoted(resident, before, f"It could not go to RAM: {error}")
            raise
        return self._demoted(resident, before, detail)

    def release_spare(self, resident: Resident) -> None:
        """Let go of the copy in host memory that only makes its next demotion quick."""
        with contextlib.suppress(Exception):  # it stays then, and is as good as before
            resident.runtime.release_host_copy()
        self.measure((resident,))
        with self._shared.open() as ledger:
            ledger.asked_for_spare(resident)

    def restore(
        self, resident: Resident, progress: ProgressSink, cancel: threading.Event
    ) -> MemoryChange:
        """Bring one back from host memory."""
        before = resident.runtime.memory()
        resident.runtime.restore(progress, cancel)
        after = resident.runtime.memory()
        self._note(resident, after)
        return MemoryChange(resident.id, resident.name, before, after)

    def _demoted(self, resident: Resident, before: MemoryUse, detail: str) -> Demoted:
        runtime = resident.runtime
        after, demoted = runtime.memory(), runtime.demoted
        held, kept = (held_bytes(runtime.plan, use) for use in (before, after))
        away = {
            place: size - kept.get(place, 0)
            for place, size in held.items()
            if place != RAM and size > kept.get(place, 0)
        }
        change = Demoted(resident.id, resident.name, before, after)
        with self._shared.open() as ledger:
            ledger.end_demotion(resident, (away or resident.away) if demoted else None)
            self._shared.tell("demoted" if demoted else "failed", resident, detail, change)
        self._note(resident, after)
        return change

    def _left(
        self, resident: Resident, before: MemoryUse, kind: EventKind, detail: str
    ) -> Unloaded:
        runtime = resident.runtime
        change = Unloaded(resident.id, resident.name, before, runtime.memory(), runtime.plan.node)
        with self._shared.open() as ledger:
            ledger.closed(resident)
            self._shared.tell(kind, resident, detail, change)
        return change

    def _note(self, resident: Resident, use: MemoryUse) -> None:
        runtime = resident.runtime
        held = held_bytes(runtime.plan, use)
        can_demote, demoted = runtime.can_demote, runtime.demoted
        with self._shared.open() as ledger:
            ledger.measured(
                resident,
                held,
                demotable=can_demote,
                demoted=demoted,
                spare_bytes=use.host_copy_bytes,
            )
