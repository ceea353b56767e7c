"""What the hub's models of a search are: their headers read in the background, a few at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ollm_widgets.errors import Cancelled, OllmError
from ollm_widgets.models.crew import Crew
from ollm_widgets.models.remote import inspect_remote
from ollm_widgets.session.lane import Lane
from ollm_widgets.session.shelf import ListedModel, Planner, look_up

if TYPE_CHECKING:
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.runtime.residency.elsewhere import Loader

MOST_AT_ONCE = 3
# Config, tokenizer config, index and the headers of some sixty shards.
MOST_BYTES_OF_A_MODEL = 8_000_000
# Who still types wants none of what has been found so far.
_PAUSE_S = 0.3
_POLL_S = 0.1


class HubVerdicts:
    """Reads config and tensor headers of listed hub models, no weights, and plans each.

    What was read is remembered by the loader's resolver, so that a model is read once, whichever
    searches list it.

    Parameters
    ----------
    loader
        Its resolver remembers what is read.
    planner
        Plans what was read, as `RuntimeManager` does, or a loader.
    desk
        The lane that plans.
    tell
        Called on the desk with each entry as it is known then: with its plan, or with the
        problem that kept it from being read.
    """

    def __init__(
        self,
        loader: Loader,
        planner: Planner,
        desk: Lane,
        tell: Callable[[ListedModel], None],
    ) -> None:
        self._loader = loader
        self._planner = planner
        self._desk = desk
        self._tell = tell
        self._lane = Lane("headers")
        # Kept by what was cancelled in the middle of a request, too.
        self._slots = threading.BoundedSemaphore(MOST_AT_ONCE)

    def find_out(self, models: Iterable[ListedModel]) -> str:
        """Read and plan these, after those that wait already; returns the job's id."""
        wanted = tuple(models)
        return self._lane.submit(lambda cancel: self._find_out(wanted, cancel))

    def cancel(self) -> None:
        """Leave what is not read yet."""
        self._lane.cancel()

    def _find_out(self, models: tuple[ListedModel, ...], cancel: threading.Event) -> None:
        unread = []
        for model in models:
            if _was_read(self._loader.resolve(model.reference)):
                self._conclude(model, "", cancel)
            else:
                unread.append(model)
        if not unread or cancel.wait(_PAUSE_S):
            return
        tasks = [functools.partial(self._read, model, cancel) for model in unread]
        try:
            with Crew(MOST_AT_ONCE, cancel, "Reading what models are") as crew:
                crew.run(tasks)
        except Cancelled:
            return  # another search runs

    def _read(self, model: ListedModel, cancel: threading.Event, stop: threading.Event) -> None:
        while not self._slots.acquire(timeout=_POLL_S):
            if stop.is_set():
                return
        problem = ""
        try:
            inspect_remote(
                model.reference,
                self._loader.resolver,
                limit_bytes=MOST_BYTES_OF_A_MODEL,
                cancel=cancel,
            )
        except Cancelled:
            return
        except OllmError as error:
            problem = str(error)
        except Exception as error:  # one model's files must not keep the others from being read
            problem = f"What it is could not be read ({type(error).__name__})."
        finally:
            self._slots.release()
        self._conclude(model, problem, cancel)

    def _conclude(self, model: ListedModel, problem: str, cancel: threading.Event) -> None:
        """Plan a model that was read, on the desk, and tell what is known of it."""

        def conclude(_cancel: threading.Event) -> None:
            if cancel.is_set():
                return
            if problem:
                self._tell(replace(model, problem=problem))
                return
            known = look_up(self._planner, model.reference)
            self._tell(replace(model, plan=known.plan, problem=known.problem))

        self._desk.submit(conclude)


def _was_read(resolved: ResolvedModel) -> bool:
    """Whether more is known than that there is a repository of that name."""
    return resolved.shape is not None or resolved.weights is not None or not resolved.is_supported()
