"""The one change that would help the shown plan most, looked for while a person reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import OllmError
from ollm_widgets.session.lane import Lane

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.residency.manager import RuntimeManager


class Advising:
    """Looks for advice on a lane of its own: it plans many times, and edits must not wait.

    Parameters
    ----------
    manager
        Who plans.
    lock
        Held while state changes.
    changed
        Called when there is advice that was not there before.
    """

    def __init__(
        self, manager: RuntimeManager, lock: threading.RLock, changed: Callable[[], None]
    ) -> None:
        self._manager = manager
        self._lock = lock
        self._changed = changed
        self._lane = Lane("advice")
        self._wanted: RuntimePlan | None = None
        self._found: tuple[RuntimePlan, str] | None = None

    def look(self, plan: RuntimePlan) -> None:
        """Look for what would help `plan`; of plans that come meanwhile only the last counts."""
        with self._lock:
            waiting, self._wanted = self._wanted is not None, plan
        if not waiting:
            self._lane.submit(self._look)

    def text_for(self, plan: RuntimePlan) -> str:
        """What was found for this very plan; empty where nothing helps, or nobody has looked."""
        found = self._found
        return found[1] if found is not None and found[0] is plan else ""

    def _look(self, _cancel: threading.Event) -> None:
        with self._lock:
            plan, self._wanted = self._wanted, None
        if plan is None:
            return
        try:
            advice = self._manager.advice(plan)
        except OllmError:  # what was planned cannot be planned any more
            return
        if advice is not None:
            with self._lock:
                self._found = plan, advice.text
            self._changed()
