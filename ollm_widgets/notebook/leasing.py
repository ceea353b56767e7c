"""Models for the magics: the one in use, one that is named, or one that has to be loaded first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ollm_widgets.models.catalog import DEFAULT_ALIAS
from ollm_widgets.notebook.printing import say
from ollm_widgets.notebook.progress import ProgressLine
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.session.effects import effect_text, made_room
from ollm_widgets.session.holding import waiting_text

if TYPE_CHECKING:
    from ollm_widgets.runtime.residency.records import Lease
    from ollm_widgets.session.session import Session


class Leasing:
    """Lends runtimes to the magics of one session, and prints what that takes."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lease(self, model: str | None, *, multimodal: bool = False) -> Lease | None:
        """Borrow what is in memory, else load it; None after an interrupt.

        Parameters
        ----------
        model
            An id or a reference; the model in use where there is none, else the default.
        multimodal
            Whether a model that has to be loaded shall take images.
        """
        manager = self._session.manager
        name = model or self._session.runtime_id
        if name is not None and manager.get(name) is not None:
            return manager.borrow(name)
        config = self._session.config if model is None else None
        departure = self._session.departure
        if model is None and departure is not None and departure.by_itself:
            say(departure.how)
        wanted = config or RuntimeConfig(model or DEFAULT_ALIAS)
        lease = self.acquire(wanted.copy(multimodal=True) if multimodal else wanted)
        if lease is not None:
            self._session.use(lease.id)
        return lease

    def acquire(self, config: RuntimeConfig, *, anyway: bool = False) -> Lease | None:
        """Load with a line of progress, and say who made room; None after an interrupt."""
        manager, began = self._session.manager, time.time()
        try:
            with ProgressLine(config.model_reference, self._whom) as line:
                try:
                    return manager.acquire(config, line.show, retry=True, anyway=anyway)
                except KeyboardInterrupt:
                    line.end("was cancelled")
                    return None
        finally:
            for event in manager.history():
                if event.at >= began and made_room(event):
                    say(effect_text(event))

    def _whom(self) -> str:
        manager = self._session.manager
        return " and ".join(waiting_text(one, manager.residents()) for one in manager.waiting())
