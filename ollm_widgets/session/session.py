"""What a person is doing, as one object that widgets and magics share."""

from __future__ import annotations

import functools
import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import (
    ConfigError,
    DeletionError,
    OllmError,
    PlanNotExecutableError,
    RuntimeClosedError,
)
from ollm_widgets.models.deletion import Deletion, plan_deletion
from ollm_widgets.runtime.residency.manager import RuntimeManager
from ollm_widgets.runtime.residency.records import RuntimeEvent
from ollm_widgets.session.activity import Activity
from ollm_widgets.session.browser import ModelBrowser
from ollm_widgets.session.conversation import Conversation, takes_images
from ollm_widgets.session.desk import Desk
from ollm_widgets.session.effects import departure_text
from ollm_widgets.session.keeping import Keeping
from ollm_widgets.session.kernel_manager import default_manager
from ollm_widgets.session.lane import current_job
from ollm_widgets.session.loading import Loading
from ollm_widgets.session.loads import Loads
from ollm_widgets.session.partner import Departure, Partner
from ollm_widgets.session.parts import PARTS, Part

if TYPE_CHECKING:
    from ollm_widgets.planning.config import GenerationConfig, RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.records import Lease

# Called with the part that changed and the job that changed it; it must only take note,
# since it runs on whatever thread made the change.
Watcher = Callable[[Part, str | None], None]

_numbers = itertools.count(1)


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
        self.desk = Desk(self.manager, self.lock, self._changed, self._found)
        self._loads = Loads(self.manager, self.lock, self._changed, self._arrived)
        self.partner: Partner | None = None  # the runtime that answers
        self.departure: Departure | None = None  # the one that did, once it has left memory
        self.conversation = Conversation(
            self.manager, self.lock, generation, self._changed, f"chat {next(_numbers)}"
        )
        # Replaced, never changed, so that a manager's event may read it without `lock`.
        self._watchers: tuple[Watcher, ...] = ()
        self.browser = ModelBrowser(self.manager, self.lock, self.desk.lane, self._changed)
        # What runtimes say of when they were used counts from another moment than the epoch.
        self.epoch_s = time.time() - time.monotonic()
        self.keeping = Keeping(self.manager, self.lock, self._changed)
        self.activity = Activity(self, self._changed)
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
        return self.desk.config

    @property
    def plan(self) -> RuntimePlan | None:
        """The latest plan of it, which may be older than the last edit."""
        return self.desk.plan

    @property
    def loading(self) -> Loading:
        """The latest load."""
        return self._loads.latest

    @property
    def running(self) -> bool:
        """Whether something is going on that changes state by itself."""
        return self.browser.searching or self.loading.active or self.conversation.busy

    def job_of(self, part: Part) -> str | None:
        """The job that is behind what a part shows, where nobody said who has changed it."""
        return {"loading": self._loads.job, "chat": self.conversation.job}.get(part)

    @property
    def in_motion(self) -> bool:
        """Whether what is shown may change without being told; asks the manager."""
        return self.running or any(
            one.in_use or one.state not in ("ready", "demoted") for one in self.manager.residents()
        )

    @property
    def can_load(self) -> bool:
        """Whether the chosen model can be loaded now, its files downloaded first if need be."""
        return self.desk.can_run and not self.desk.errors and not self.loading.active

    @property
    def runtime_id(self) -> str | None:
        """The id of the runtime that answers, None when there is none in memory."""
        partner = self.partner
        return partner.runtime_id if partner else None

    @property
    def runtime(self) -> Runtime | None:
        """The runtime that answers, None when there is none in memory."""
        runtime_id = self.runtime_id
        return self.manager.get(runtime_id) if runtime_id else None

    def close(self) -> None:
        """Cancel what runs and stop watching the manager; loaded models stay."""
        self._unsubscribe()
        self.browser.close()
        self._loads.cancel()
        self.conversation.stop()
        self.activity.close()
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
        with self.lock:
            self.desk.choose(reference)
            self._loads.forget()
        self._changed("models", "plan", "header", "loading", "capabilities")
        return self.desk.replan()

    # ------------------------------------------------------------------ loading

    def load(self, *, anyway: bool = False) -> str:
        """Load the chosen model by its plan.

        Parameters
        ----------
        anyway
            Load although room for it could not be made.

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
            self._loads.require_none()
            if self.desk.errors:
                raise ConfigError("plan", next(iter(self.desk.errors.values())))
            plan = self.plan
            planned = plan is not None and plan.config == self.config
            if plan is not None and planned and not self.desk.can_run:
                raise PlanNotExecutableError(plan.reason)
            config = self.config.copy()
            name = self.plan.resolved_model.display_name if self.plan else config.model_reference
            job = self._loads.begin(config, str(name), anyway=anyway)
        self._changed("loading", "header", job=job)
        return job

    def reload(self) -> str:
        """Load the runtime of this conversation again; the transcript goes on.

        Raises
        ------
        ConfigError
            If a load runs.
        RuntimeClosedError
            If no runtime of this conversation has left memory.
        """
        with self.lock:
            self._loads.require_none()
            if self.departure is None:
                raise RuntimeClosedError(
                    "This conversation had no model that has left memory.", hint="Press Load."
                )
            partner = self.departure.partner
            self.desk.start(partner.config.copy(), partner.plan)
            job = self._loads.begin(partner.config.copy(), partner.name)
        self._changed(*PARTS, job=job)
        self.desk.replan()
        return job

    def cancel_load(self) -> None:
        """Cancel the load that runs; harmless when there is none."""
        self._loads.cancel()

    # ------------------------------------------------------------------ runtimes

    def use(self, runtime_id: str) -> None:
        """Talk to another loaded runtime; its config becomes the one shown.

        Raises
        ------
        RuntimeClosedError
            If it is no longer in memory.
        """
        runtime = self.keeping.runtime(runtime_id)
        with self.lock:
            self._talk_to(runtime_id, runtime)
            self.desk.start(runtime.plan.config.copy(), runtime.plan)
        self._changed(*PARTS)

    def remove(self, reference: str) -> str:
        """Delete the files of a model, which frees its disk.

        Raises
        ------
        DeletionError
            When they are not ours to delete, not here, or in memory.
        """
        deletion = self.plan_removal(reference)
        return self.desk.lane.submit(lambda _cancel: self._remove(deletion))

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

    @property
    def image_obstacle(self) -> str:
        """Why images cannot be attached to a question; empty if they can."""
        runtime = self.runtime
        if runtime is None:
            return "no model is loaded that takes images."
        return "" if takes_images(runtime) else f"{runtime.name} takes text only."

    def attach(self, upload_id: str, name: str, data: bytes, *, last: bool) -> str | None:
        """Take a piece of a file that goes with the next question; see `Tray.receive`."""
        return self.conversation.tray.receive(
            upload_id, name, data, last=last, images=self.image_obstacle
        )

    # ------------------------------------------------------------------ on the lanes

    def _arrived(self, config: RuntimeConfig, lease: Lease) -> None:
        """Talk to what was loaded; called with the lock held."""
        self._talk_to(lease.id, lease.runtime)
        downloaded = self.plan is not None and self.plan.needs_files
        if self.config == config:
            self.desk.plan = lease.runtime.plan
        if downloaded:
            self.browser.refresh()

    def _remove(self, deletion: Deletion) -> None:
        try:
            deletion.run()
        except OllmError as error:
            with self.lock:
                self.browser.problem = str(error)
        self.browser.refresh()
        self.desk.replan()

    # ------------------------------------------------------------------ inside

    def _changed(self, *parts: Part, job: str | None = None) -> None:
        job = job or current_job.get()
        for watcher in self._watchers:
            for part in parts:
                watcher(part, job)

    def _on_runtime_event(self, event: RuntimeEvent) -> None:
        # Comes on whatever thread loads, moves or unloads. Readers hold `lock` and then ask the
        # manager, so `lock` must not be waited for here.
        partner = self.partner
        if (
            partner is None
            or event.kind not in ("unloaded", "evicted")
            or event.runtime_id != partner.runtime_id
        ):
            self._changed("memory", "header", "loading", "chat")
            return
        self.departure, self.partner = (
            Departure(partner, departure_text(event), event.kind == "evicted"),
            None,
        )
        if self.loading.state == "loaded":
            self._loads.forget()
        self._changed(*PARTS)

    def _found(self, runtime: Runtime) -> None:
        """Talk to a runtime that is in memory already under the chosen config."""
        for resident in self.manager.residents():
            if resident.runtime is runtime:
                self._talk_to(resident.id, runtime)
                self.desk.plan = runtime.plan

    def _talk_to(self, runtime_id: str, runtime: Runtime) -> None:
        """From now on this runtime answers; the caller holds the lock."""
        self.partner, self.departure = Partner.of(runtime_id, runtime), None

    def _answering(self) -> str:
        runtime_id, departure = self.runtime_id, self.departure
        if runtime_id is not None:
            return runtime_id
        if departure is not None:
            raise RuntimeClosedError(departure.how, hint="Press Load again.")
        raise RuntimeClosedError("No model is loaded yet.", hint="Press Load first.")


@functools.cache
def default_session() -> Session:
    """The session that widgets and magics of this kernel share."""
    return Session()
