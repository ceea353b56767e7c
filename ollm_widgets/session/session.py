"""What a person is doing, as one object that widgets and magics share."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import (
    Cancelled,
    ConfigError,
    DeletionError,
    OllmError,
    PlanNotExecutableError,
    RuntimeClosedError,
)
from ollm_widgets.models.deletion import Deletion, plan_deletion
from ollm_widgets.models.hub_cache import is_offline
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig
from ollm_widgets.planning.devices import probe_machine
from ollm_widgets.runtime.manager import RuntimeManager, default_manager
from ollm_widgets.runtime.residency import RuntimeEvent
from ollm_widgets.session.advising import Advising
from ollm_widgets.session.browser import ModelBrowser
from ollm_widgets.session.conversation import Conversation
from ollm_widgets.session.editing import Editing
from ollm_widgets.session.lane import Lane, current_job
from ollm_widgets.session.loading import Loading
from ollm_widgets.session.parts import PARTS, Part
from ollm_widgets.session.presets import preset_changes, preset_of

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress
    from ollm_widgets.planning.devices import Machine
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.loaded import LoadedRuntime

# Called with the part that changed and the job that changed it; it must only take note,
# since it runs on whatever thread made the change.
Watcher = Callable[[Part, str | None], None]


class Session:
    """Chosen model, config, plan, load, conversation.

    Every command returns at once: it checks its arguments, raises what is wrong with them,
    and leaves the work to a lane. `lock` is held while state changes and may be taken to
    read several fields that agree.

    Parameters
    ----------
    manager
        Where runtimes live; the kernel's default manager by default.
    generation
        How answers are generated.
    """

    def __init__(
        self, manager: RuntimeManager | None = None, generation: GenerationConfig | None = None
    ) -> None:
        self.manager = manager or default_manager()
        self.lock = threading.RLock()
        self.editing = Editing()
        self.plan: RuntimePlan | None = None
        self.plan_before: RuntimePlan | None = None  # as it was before the last edit
        self.plan_problem = ""  # why there is no plan for the config
        self.hub_problem = ""  # why the hub could not say more of the chosen model
        self.machine: Machine | None = None  # whose devices can be chosen; looked at on the desk
        self.loading = Loading()
        self.runtime_id: str | None = None
        self.conversation = Conversation(self.manager, self.lock, generation, self._changed)
        # Replaced, never changed, so that a manager's event may read it without `lock`.
        self._watchers: tuple[Watcher, ...] = ()
        self._desk = Lane("desk")
        self._planning: str | None = None  # the job that will plan, while it waits
        self.browser = ModelBrowser(self.manager, self.lock, self._desk, self._changed)
        self._loads = Lane("load")
        self._remote = Lane("remote")  # asks the hub, which planning must not wait for
        self._inspected: set[str] = set()  # references that the hub was asked about
        self.advising = Advising(self.manager, self.lock, lambda: self._changed("plan"))
        self._unloads = Lane("unload")  # waits for who is busy, which planning must not
        self._unsubscribe = self.manager.subscribe(self._on_runtime_event)

    # ------------------------------------------------------------------ watching

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` after each change; returns what ends it."""
        with self.lock:
            self._watchers = (*self._watchers, watcher)

        def unwatch() -> None:
            with self.lock:
                self._watchers = tuple(one for one in self._watchers if one != watcher)

        return unwatch

    @property
    def config(self) -> RuntimeConfig | None:
        """How to run the chosen model; None until one is chosen."""
        return self.editing.config

    @property
    def edits(self) -> dict[str, str]:
        """Values that could not be applied to the config, by field."""
        return self.editing.unapplied

    @property
    def edit_errors(self) -> dict[str, str]:
        """What is wrong with them, by field."""
        return self.editing.errors

    @property
    def running(self) -> bool:
        """Whether something is going on that changes state by itself."""
        return self.browser.searching or self.loading.active or self.conversation.busy

    @property
    def can_download(self) -> bool:
        """Whether only the chosen model's files are missing, and the hub may be asked."""
        return self.plan is not None and self.plan.needs_files and not is_offline()

    @property
    def can_load(self) -> bool:
        """Whether the chosen model can be loaded now, its files downloaded first if need be."""
        ready = self.plan is not None and (self.plan.is_executable() or self.can_download)
        return ready and not self.edit_errors and not self.loading.active

    @property
    def runtime(self) -> LoadedRuntime | None:
        """The runtime that answers, None when there is none in memory."""
        return self.manager.get(self.runtime_id) if self.runtime_id else None

    def close(self) -> None:
        """Cancel what runs and stop watching the manager; loaded models stay."""
        self._unsubscribe()
        self.browser.close()
        self._loads.cancel()
        self.conversation.stop()
        with self.lock:
            self._watchers = ()

    # ------------------------------------------------------------------ models

    def choose(self, reference: str) -> str:
        """Choose a model; the plan follows.

        Raises
        ------
        ModelReferenceError
            If the text is no reference.
        """
        ModelReference.parse(reference)
        with self.lock:
            self.editing.start(RuntimeConfig(reference))
            self.plan, self.plan_problem, self.hub_problem = None, "", ""
            self.plan_before = None
            if not self.loading.active:
                self.loading = Loading()
        self._changed("models", "plan", "header", "loading", "capabilities")
        return self._replan()

    # ------------------------------------------------------------------ plan

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

    # ------------------------------------------------------------------ loading

    def load(self) -> str:
        """Load the chosen model by its plan.

        Raises
        ------
        ConfigError
            If nothing is chosen, a field is wrong, or a load runs.
        PlanNotExecutableError
            If the plan cannot run.
        """
        with self.lock:
            if self.config is None:
                raise ConfigError("model", "none is chosen yet.", hint="Pick a model first.")
            if self.loading.active:
                raise ConfigError(
                    "load", f"{self.loading.model} is being loaded.", hint="Cancel it, or wait."
                )
            if self.edit_errors:
                raise ConfigError("plan", next(iter(self.edit_errors.values())))
            plan = self.plan
            planned = plan is not None and plan.config == self.config
            if plan is not None and planned and not plan.is_executable() and not self.can_download:
                raise PlanNotExecutableError(plan.reason)
            config = self.config.copy()
            name = self.plan.resolved_model.display_name if self.plan else config.model_reference
            self.loading.begin(str(name))
            job = self._loads.submit(lambda cancel: self._load(config, cancel))
        self._changed("loading", "header", job=job)
        return job

    def cancel_load(self) -> None:
        """Cancel the load that runs; harmless when there is none."""
        self._loads.cancel()
        with self.lock:
            if self.loading.state == "loading":
                self.loading.state = "cancelling"
        self._changed("loading")

    # ------------------------------------------------------------------ runtimes

    def use(self, runtime_id: str) -> None:
        """Talk to another loaded runtime; its config becomes the one shown.

        Raises
        ------
        RuntimeClosedError
            If it is no longer in memory.
        """
        runtime = self._loaded(runtime_id)
        with self.lock:
            self.runtime_id = runtime_id
            self.editing.start(runtime.config.copy())
            self.plan, self.plan_before = runtime.plan, None
        self._changed(*PARTS)

    def pin(self, runtime_id: str, pinned: bool) -> None:
        """Keep a runtime, or allow its eviction again."""
        (self.manager.pin if pinned else self.manager.unpin)(runtime_id)

    def unload(self, runtime_id: str) -> str:
        """Unload a runtime; an answer of this session is stopped first."""
        self._loaded(runtime_id)
        if runtime_id == self.runtime_id:
            self.conversation.stop()
        return self._unloads.submit(lambda _cancel: self._unload(runtime_id))

    def remove(self, reference: str) -> str:
        """Delete the files of a model, which frees its disk.

        Raises
        ------
        DeletionError
            When they are not ours to delete, not here, or in memory.
        """
        deletion = self.plan_removal(reference)
        return self._desk.submit(lambda _cancel: self._remove(deletion))

    def plan_removal(self, reference: str) -> Deletion:
        """Say what `remove` would delete; raises what `remove` raises."""
        resolved = self.manager.loader.resolve(reference)
        deletion = plan_deletion(resolved)
        if any(one.runtime.model_path in deletion.paths for one in self.manager.residents()):
            raise DeletionError(f"{resolved.display_name} is in memory.", hint="Unload it first.")
        return deletion

    # ------------------------------------------------------------------ conversation

    def send(self, text: str) -> str:
        """Ask the loaded model; the answer streams into the conversation.

        Raises
        ------
        ConfigError
            For an empty question, or while an answer runs.
        RuntimeClosedError
            When no model is loaded.
        """
        return self.conversation.send(self._answering(), text)

    def retry(self, turn_id: str) -> str:
        """Ask the question before the answer `turn_id` again."""
        return self.conversation.retry(self._answering(), turn_id)

    def edit_turn(self, turn_id: str, text: str) -> str:
        """Ask another question in place of `turn_id`."""
        return self.conversation.edit_turn(self._answering(), turn_id, text)

    # ------------------------------------------------------------------ on the lanes

    def _plan(self, _cancel: threading.Event) -> None:
        with self.lock:
            self._planning, config = None, self.config
        if config is None:
            return
        try:
            self.machine = self.machine or probe_machine()
            plan, problem = self.manager.loader.plan(config), ""
            resident = self.manager.get(config)
        except OllmError as error:
            plan, problem, resident = None, str(error), None
        except Exception as error:  # a person must see it, whatever a library raised
            plan, problem, resident = None, f"{type(error).__name__}: {error}", None
        with self.lock:
            if self.config is None or self.config.model_reference != config.model_reference:
                return
            outdated = self.config is not config  # a later task plans what was edited meanwhile
            if outdated and not self.editing.moves:
                return
            self.plan, self.plan_problem = plan, problem
            if resident is not None and not outdated:
                self._adopt(resident)
            reference = config.model_reference
            if self.can_download and reference not in self._inspected:
                self._inspected.add(reference)
                self._remote.submit(lambda _cancel: self._inspect_on_hub(config))
        self._changed("plan", "loading", "capabilities", "header", "chat", "memory")
        if plan is not None and not self.editing.moves:
            self.advising.look(plan)

    def _inspect_on_hub(self, config: RuntimeConfig) -> None:
        """Read the chosen model's config and headers, so that its plan is exact."""
        problem = ""
        try:
            self.manager.loader.inspect_remote(config.model_reference)
        except OllmError as error:
            problem = str(error)
        with self.lock:
            if self.config is None or self.config.model_reference != config.model_reference:
                return
            self.hub_problem = problem
        self._changed("plan")
        self._replan()

    def _load(self, config: RuntimeConfig, cancel: threading.Event) -> None:
        try:
            progress = functools.partial(self._on_progress, current_job.get())
            with self.manager.acquire(config, progress, cancel) as lease, self.lock:
                self.runtime_id = lease.id
                downloaded = self.plan is not None and self.plan.needs_files
                if self.config == config:
                    self.plan = lease.runtime.plan
                self.loading.end("loaded")
            if downloaded:
                self.browser.refresh()
        except Cancelled:
            with self.lock:
                self.loading.end("cancelled")
        except OllmError as error:
            with self.lock:
                self.loading.end("failed", error)
        except Exception as error:  # a person must see it, whatever a library raised
            with self.lock:
                self.loading.end("failed", OllmError(f"{type(error).__name__}: {error}"))
        self._changed(*PARTS)

    def _remove(self, deletion: Deletion) -> None:
        try:
            deletion.run()
        except OllmError as error:
            with self.lock:
                self.browser.problem = str(error)
        self.browser.refresh()
        self._replan()

    def _unload(self, runtime_id: str) -> None:
        try:
            self.manager.unload(runtime_id)
        except OllmError as error:
            with self.lock:
                if self.loading.active:
                    self.loading.error = error  # of another model's load, which goes on
                else:
                    self.loading.end("failed", error)
            self._changed("loading")

    # ------------------------------------------------------------------ inside

    def _edit(self, change: Callable[[], object]) -> str:
        """Change the config, and remember the plan that its own will be compared with."""
        with self.lock:
            goes_on = self.editing.moves
            before = self.config
            change()
            if not goes_on and self.config is not before:
                self.plan_before = self.plan
        self._changed("plan", "loading")
        return self._replan()

    def _replan(self) -> str:
        """Plan the config as it is when the desk comes to it: a burst of edits plans it once."""
        with self.lock:
            if self._planning is None:
                self._planning = self._desk.submit(self._plan)
            return self._planning

    def _changed(self, *parts: Part, job: str | None = None) -> None:
        job = job or current_job.get()
        for watcher in self._watchers:
            for part in parts:
                watcher(part, job)

    def _on_progress(self, job: str | None, progress: LoadProgress) -> None:
        # May come with the manager's lock held, like the events below.
        self.loading.report(progress)
        self._changed("loading", job=job)

    def _on_runtime_event(self, event: RuntimeEvent) -> None:
        # Comes on any thread, perhaps with the manager's lock held. Readers hold `lock` and
        # then ask the manager, so `lock` must not be waited for here.
        gone = event.kind in ("unloaded", "evicted") and event.runtime_id == self.runtime_id
        if gone:
            self.runtime_id = None
            if self.loading.state == "loaded":
                self.loading = Loading()
        self._changed(*(PARTS if gone else ("memory", "header")))

    def _adopt(self, runtime: LoadedRuntime) -> None:
        """Talk to a runtime that is in memory already under the chosen config."""
        for resident in self.manager.residents():
            if resident.runtime is runtime:
                self.runtime_id, self.plan = resident.id, runtime.plan

    def _answering(self) -> str:
        if self.runtime_id is None:
            raise RuntimeClosedError("No model is loaded yet.", hint="Press Load first.")
        return self.runtime_id

    def _loaded(self, runtime_id: str) -> LoadedRuntime:
        runtime = self.manager.get(runtime_id)
        if runtime is None:
            raise RuntimeClosedError(
                f"{runtime_id!r} is no longer in memory.", hint="Load it again to use it."
            )
        return runtime


@functools.cache
def default_session() -> Session:
    """The session that widgets and magics of this kernel share."""
    return Session()
