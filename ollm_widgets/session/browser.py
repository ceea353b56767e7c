"""Finding a model: the list, the search over it and over the hub, and what was typed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ollm_widgets.errors import OllmError
from ollm_widgets.models.search import SearchPage, search_models
from ollm_widgets.session.hub_verdicts import HubVerdicts
from ollm_widgets.session.lane import Lane
from ollm_widgets.session.parts import Changed
from ollm_widgets.session.shelf import ListedModel, list_models, look_up

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.residency.manager import RuntimeManager

# A letter alone finds half of the hub.
SHORTEST_HUB_QUERY = 2
# The hub holds far more than our backends run.
HUB_TASK = "text-generation"


class ModelBrowser:
    """The list of models and the search over it.

    Parameters
    ----------
    manager
        Its loader resolves and plans what is listed.
    lock
        The session's lock; held while the list changes.
    desk
        The lane that looks models up on this machine.
    changed
        Called after each change.
    """

    def __init__(
        self, manager: RuntimeManager, lock: threading.RLock, desk: Lane, changed: Changed
    ) -> None:
        self.query = ""
        self.listing = False
        self.asking_hub = False
        self.listed: tuple[ListedModel, ...] = ()
        self.typed: ListedModel | None = None  # what the query names outside the list
        self.on_hub: tuple[ListedModel, ...] = ()
        self.more_on_hub = False
        self.problem = ""  # why something is missing from the list
        self._hub_page = 1
        self._manager = manager
        self._lock = lock
        self._desk = desk
        self._hub = Lane("hub")  # the network is slow, and planning must not wait for it
        self._verdicts = HubVerdicts(manager.loader, manager, desk, self._know)
        self._changed = changed

    @property
    def searching(self) -> bool:
        """Whether the list is not complete yet."""
        return self.listing or self.asking_hub

    def refresh(self) -> str:
        """List catalog and machine anew; returns the job's id."""
        self.listing = True
        self._changed("models")
        return self._desk.submit(self._list)

    def search(self, text: str) -> str:
        """Filter the list, ask the hub, and look up text that names neither.

        What the hub lists is read in the background, so that each gets its verdict.
        """
        with self._lock:
            self._verdicts.cancel()
            self.query, self.typed = text, None
            self.on_hub, self.more_on_hub, self.problem = (), False, ""
            self._ask_hub(1)
        self._changed("models")
        return self._desk.submit(lambda _cancel: self._look_up_typed(text))

    def more(self) -> str | None:
        """Ask the hub for its next models; returns the job's id, if there are any."""
        with self._lock:
            return self._ask_hub(self._hub_page + 1) if self.more_on_hub else None

    def matching(self) -> tuple[ListedModel, ...]:
        """What the search shows: listed models with every word of it, what was typed, the hub's."""
        with self._lock:
            words = tuple(self.query.casefold().split())
            found = tuple(model for model in self.listed if model.matches(words))
            typed = () if self.typed is None else (self.typed,)
            here = {model.repo_id for model in self.listed if model.on_this_machine}
            # What was downloaded since the hub was asked is listed above already.
            remote = tuple(model for model in self.on_hub if model.repo_id not in here)
            if remote and self.typed is not None and not self.typed.is_known:
                typed = ()  # words that the hub knows better
            return (*found, *typed, *remote)

    def reference_of(self, plan: RuntimePlan) -> str:
        """Give the reference under which the list has a planned model, else the plan's own."""
        for model in self.listed:
            if plan.model_path is not None and model.model_path == plan.model_path:
                return model.reference
        return str(plan.config.model_reference)

    def close(self) -> None:
        """Stop asking the hub."""
        self._hub.cancel()
        self._verdicts.cancel()

    def _ask_hub(self, page: int) -> str | None:
        """Search page `page` of the hub for the query; the caller holds the lock."""
        self._hub.cancel()
        text = self.query.strip()
        if len(text) < SHORTEST_HUB_QUERY:
            self.asking_hub = False
            return None
        self.asking_hub = True
        return self._hub.submit(lambda cancel: self._find_on_hub(text, page, cancel))

    def _list(self, _cancel: threading.Event) -> None:
        try:
            listed = list_models(self._manager.loader, planner=self._manager)
            with self._lock:
                self.listed = listed
        finally:
            self.listing = False
            self._changed("models")

    def _look_up_typed(self, text: str) -> None:
        reference = text.strip()
        with self._lock:
            words = tuple(reference.casefold().split())
            known = any(model.matches(words) for model in self.listed)
            stale = text != self.query
        if not reference or known or stale:
            return
        typed = look_up(self._manager, reference)
        with self._lock:
            if self.query == text and typed.reference not in {one.name for one in self.on_hub}:
                self.typed = typed
        self._changed("models")

    def _find_on_hub(self, text: str, page: int, cancel: threading.Event) -> None:
        try:
            found = search_models(
                text,
                task=HUB_TASK,
                page=page,
                where=("hub",),
                resolver=self._manager.loader.resolver,
                cancel=cancel,
            )
        except OllmError as error:
            found = SearchPage((), hub_problem=str(error))
        if cancel.is_set():
            return  # a newer search runs
        items = tuple(
            ListedModel(model.reference, model.name, None, model, model.problem)
            for model in found.items
            if not model.downloaded
        )
        with self._lock:
            if text != self.query.strip():
                return
            self.on_hub = (*self.on_hub, *items) if page > 1 else items
            if any(model.name == text for model in items):
                self.typed = None  # it is no stranger any more
            self.more_on_hub, self.problem = found.has_more, found.hub_problem
            self._hub_page, self.asking_hub = page, False
            if items:
                self._verdicts.find_out(items)
        self._changed("models")

    def _know(self, model: ListedModel) -> None:
        """Put what was found out of a hub model in its place."""
        with self._lock:
            self.on_hub = tuple(
                model if one.reference == model.reference else one for one in self.on_hub
            )
        self._changed("models")
