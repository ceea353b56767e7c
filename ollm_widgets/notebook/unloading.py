"""``%ollm unload``: what it waits for, and what it gave back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.errors import RuntimeBusyError, RuntimeClosedError
from ollm_widgets.notebook.printing import say
from ollm_widgets.render.units import format_seconds
from ollm_widgets.session.effects import freed_text
from ollm_widgets.session.holding import state_of

if TYPE_CHECKING:
    from ollm_widgets.runtime.residency.manager import RuntimeManager


class Unloading:
    """Lets models go, and prints each as it goes.

    Parameters
    ----------
    manager
        Who keeps them.
    force
        Whether to stop what they do.
    """

    def __init__(self, manager: RuntimeManager, *, force: bool) -> None:
        self._manager = manager
        self._force = force

    def one(self, runtime_id: str) -> None:
        """Unload one; an interrupt ends the wait for its answer, and it stays.

        Raises
        ------
        RuntimeBusyError
            If it stays busy longer than the manager waits.
        RuntimeClosedError
            If it is no longer in memory.
        """
        if not self._force:
            self._say_if_it_waits(runtime_id)
        try:
            unloaded = self._manager.unload(runtime_id, self._force)
        except KeyboardInterrupt:
            say(f"{runtime_id}: stays in memory.")
            return
        say(f"{runtime_id}: {freed_text(unloaded)}.")

    def everything(self) -> None:
        """Unload all, those that nobody uses first.

        Raises
        ------
        RuntimeBusyError
            If one stays busy; the others have gone all the same.
        """
        residents = sorted(self._manager.residents(), key=lambda resident: resident.in_use)
        busy: RuntimeBusyError | None = None
        for resident in residents:
            try:
                self.one(resident.id)
            except RuntimeClosedError:
                continue  # it went by itself
            except RuntimeBusyError as error:
                busy = busy or error
        if busy is not None:
            raise busy
        if not residents:
            say("No model was loaded.")

    def _say_if_it_waits(self, runtime_id: str) -> None:
        wait_s = self._manager.options.busy_wait_s
        for resident in self._manager.residents() if wait_s else ():
            if resident.id == runtime_id and resident.in_use:
                _state, word = state_of(resident)
                say(
                    f"{runtime_id} is {word}; this waits up to {format_seconds(wait_s)} for it. "
                    "--force would stop it.",
                )
