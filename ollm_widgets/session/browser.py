"""Finding a model: the list, the search text, and what was typed beyond the list."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ollm_widgets.session.lane import Lane
from ollm_widgets.session.parts import Changed
from ollm_widgets.session.shelf import ListedModel, list_models, look_up

if TYPE_CHECKING:
    from ollm_widgets.runtime.manager import RuntimeManager


class ModelBrowser:
    """The list of models and the search over it.

    Parameters
    ----------
    manager
        Its loader resolves and plans what is listed.
    lock
        The session's lock; held while the list changes.
    desk
        The lane that looks models up.
    changed
        Called after each change.
    """

    def __init__(
        self, manager: RuntimeManager, lock: threading.RLock, desk: Lane, changed: Changed
    ) -> None:
        self.query = ""
        self.searching = False
        self.listed: tuple[ListedModel, ...] = ()
        self.typed: ListedModel | None = None  # what the query names outside the list
        self._manager = manager
        self._lock = lock
        self._desk = desk
        self._changed = changed

    def refresh(self) -> str:
        """List catalog and machine anew; returns the job's id."""
        self.searching = True
        self._changed("models")
        return self._desk.submit(self._list)

    def search(self, text: str) -> str:
        """Filter the list; text that names a model outside it is looked up as a reference."""
        with self._lock:
            self.query, self.typed = text, None
        self._changed("models")
        return self._desk.submit(lambda _cancel: self._look_up_typed(text))

    def matching(self) -> tuple[ListedModel, ...]:
        """What the search shows: listed models with every word of it, and what was typed."""
        with self._lock:
            words = self.query.casefold().split()
            found = tuple(model for model in self.listed if model.matches(words))
            return found if self.typed is None else (*found, self.typed)

    def _list(self, _cancel: threading.Event) -> None:
        try:
            listed = list_models(self._manager.loader)
            with self._lock:
                self.listed = listed
        finally:
            self.searching = False
            self._changed("models")

    def _look_up_typed(self, text: str) -> None:
        reference = text.strip()
        with self._lock:
            stale = text != self.query or bool(self.matching())
        if not reference or stale:
            return
        typed = look_up(self._manager.loader, reference)
        with self._lock:
            if self.query == text:
                self.typed = typed
        self._changed("models")
