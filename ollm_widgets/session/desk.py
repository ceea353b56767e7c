"""The chosen model's config and its plan: every edit plans it anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import OllmError
from ollm_widgets.models.hub_cache import is_offline
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import probe_machine
from ollm_widgets.session.advising import Advising
from ollm_widgets.session.editing import Editing
from ollm_widgets.session.lane import Lane
from ollm_widgets.session.parts import Changed
from ollm_widgets.session.presets import preset_changes, preset_of
from ollm_widgets.session.room import room_for

if TYPE_CHECKING:
    from ollm_widgets.planning.devices import Machine
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.manager import RuntimeManager


class Desk:
    """Where a config is edited and planned.

    Parameters
    ----------
    manager
        Who plans.
    lock
        The session's lock; held while state changes.
    changed
        Called after each change.
    found
        Called with a runtime that is in memory under the config already; the lock is held.
    """

    def __init__(
        self,
        manager: RuntimeManager,
        lock: threading.RLock,
        changed: Changed,
        found: Callable[[Runtime], None],
    ) -> None:
        self.lane = Lane("desk")
        self.editing = Editing()
        self.plan: RuntimePlan | None = None
        self.plan_before: RuntimePlan | None = None  # as it was before the last edit
        self.problem = ""  # why there is no plan for the config
        self.hub_problem = ""  # why the hub could not say more of the chosen model
        self.machine: Machine | None = None  # whose devices can be chosen; looked at by the lane
        self.advising = Advising(manager, lock, lambda: changed("plan"))
        self._manager = manager
        self._lock = lock
        self._changed = changed
        self._found = found
        self._room: tuple[RuntimePlan, tuple[str, ...]] | None = None
        self._planning: str | None = None  # the job that will plan, while it waits
        self._remote = Lane("remote")  # asks the hub, which planning must not wait for
        self._inspected: set[str] = set()  # references that the hub was asked about

    @property
    def config(self) -> RuntimeConfig | None:
        """How to run the chosen model; None until one is chosen."""
        return self.editing.config

    @property
    def edits(self) -> dict[str, str]:
        """Values that could not be applied to the config, by field."""
        return self.editing.unapplied

    @property
    def errors(self) -> dict[str, str]:
        """What is wrong with them, by field."""
        return self.editing.errors

    @property
    def room(self) -> tuple[str, ...]:
        """What the plan takes for granted: who would make room for it, and who would not."""
        return self._room[1] if self._room is not None and self._room[0] is self.plan else ()

    @property
    def can_download(self) -> bool:
        """Whether only the chosen model's files are missing, and the hub may be asked."""
        return self.plan is not None and self.plan.needs_files and not is_offline()

    @property
    def can_run(self) -> bool:
        """Whether the plan could be carried out, the files downloaded first if need be."""
        return self.plan is not None and (self.plan.is_executable() or self.can_download)

    # ------------------------------------------------------------------ choosing

    def start(self, config: RuntimeConfig, plan: RuntimePlan | None = None) -> None:
        """Lay out another config, with its plan where that is known; the caller holds the lock."""
        self.editing.start(config)
        self.plan, self.plan_before = plan, None
        self.problem = self.hub_problem = ""

    def choose(self, reference: str) -> None:
        """Lay out the config of a model as it is by itself; the caller holds the lock.

        A model that is laid out so already keeps its plan until there is a newer one: who picks
        it once more can go on at once.

        Raises
        ------
        ModelReferenceError
            If the text is no reference.
        """
        ModelReference.parse(reference)
        config = RuntimeConfig(reference)
        if config != self.config or self.edits:
            self.start(config)

    # ------------------------------------------------------------------ editing

    def edit(self, field: str, value: str) -> str:
        """Change one field of the config; "" means automatic.

        A value that cannot work stays visible beside its error; the last good plan stays.

        Raises
        ------
        ConfigError
            If no model has been chosen.
        """
        return self._edit(lambda: self.editing.set(field, value))

    def place(self, gpu_layers: str, ram_layers: str, *, settled: bool) -> str:
        """Choose how many layers stay on the GPU and in RAM; "" means automatic.

        Parameters
        ----------
        settled
            False while a boundary is being dragged: all of a drag is taken back at once.

        Raises
        ------
        ConfigError
            If no model has been chosen, or a text is no count.
        """
        return self._edit(lambda: self.editing.place(gpu_layers, ram_layers, settled=settled))

    def apply_preset(self, preset_id: str) -> str:
        """Choose a whole set of values, in one step.

        Raises
        ------
        ConfigError
            If there is no such preset, or model and machine rule it out.
        """
        preset = preset_of(preset_id)
        return self._edit(lambda: self.editing.apply(preset_changes(preset, self.plan)))

    def undo(self) -> str:
        """Take the last edit back; harmless when there is none."""
        return self._edit(self.editing.undo)

    def redo(self) -> str:
        """Do again what was taken back; harmless when there is nothing."""
        return self._edit(self.editing.redo)

    def replan(self) -> str:
        """Plan the config as it is when the lane comes to it: a burst of edits plans it once."""
        with self._lock:
            if self._planning is None:
                self._planning = self.lane.submit(self._plan)
            return self._planning

    # ------------------------------------------------------------------ on the lanes

    def _plan(self, cancel: threading.Event) -> None:
        with self._lock:
            self._planning, config = None, self.config
        if config is None:
            return
        room: tuple[str, ...] = ()
        try:
            self.machine = self.machine or probe_machine()
            plan, problem = self._manager.plan(config), ""
            resident = self._manager.get(config)
            if resident is None:
                room = room_for(self._manager, plan)
        except OllmError as error:
            plan, problem, resident = None, str(error), None
        except Exception as error:  # a person must see it, whatever a library raised
            plan, problem, resident = None, f"{type(error).__name__}: {error}", None
        with self._lock:
            if self.config is None or self.config.model_reference != config.model_reference:
                return
            outdated = self.config is not config  # a later task plans what was edited meanwhile
            if outdated and not self.editing.moves:
                return
            self.plan, self.problem = plan, problem
            self._room = None if plan is None else (plan, room)
            if resident is not None and not outdated:
                self._found(resident)
            reference = config.model_reference
            if self.can_download and reference not in self._inspected:
                self._inspected.add(reference)
                self._remote.submit(lambda _cancel: self._inspect_on_hub(config))
        self._changed("plan", "loading", "capabilities", "header", "chat", "memory")
        if plan is not None and not self.editing.moves:
            self.advising.look(plan)
        if plan is not None and plan.provisional and not cancel.is_set():
            self.replan()  # planning waits for what it needs to know, within limits

    def _inspect_on_hub(self, config: RuntimeConfig) -> None:
        """Read the chosen model's config and headers, so that its plan is exact."""
        problem = ""
        try:
            self._manager.loader.inspect_remote(config.model_reference)
        except OllmError as error:
            problem = str(error)
        with self._lock:
            if self.config is None or self.config.model_reference != config.model_reference:
                return
            self.hub_problem = problem
        self._changed("plan")
        self.replan()

    # ------------------------------------------------------------------ inside

    def _edit(self, change: Callable[[], object]) -> str:
        """Change the config, and remember the plan that its own will be compared with."""
        with self._lock:
            goes_on = self.editing.moves
            before = self.config
            change()
            if not goes_on and self.config is not before:
                self.plan_before = self.plan
        self._changed("plan", "loading")
        return self.replan()
