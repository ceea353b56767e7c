"""What a person does with the runtimes in memory: keep them, move them, let them go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import OllmError, RuntimeClosedError
from ollm_widgets.runtime.residency.neighbours import PLEA_LIFE_S
from ollm_widgets.session.lane import Lane
from ollm_widgets.session.parts import Changed

if TYPE_CHECKING:
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.manager import RuntimeManager
    from ollm_widgets.runtime.residency.surroundings import Holder


class Keeping:
    """The actions of the shelf; what they did is told by the manager's events.

    Parameters
    ----------
    manager
        Whose runtimes they are.
    lock
        The session's lock; held while state changes.
    changed
        Called after each change.
    """

    def __init__(self, manager: RuntimeManager, lock: threading.RLock, changed: Changed) -> None:
        self.problem: OllmError | None = None  # why the last action did not work
        self.leaving: frozenset[str] = frozenset()  # runtimes that go as soon as they are idle
        self.said: tuple[float, str] | None = None  # when, and what no event tells
        self._asked: dict[int, float] = {}  # processes that were asked for memory, and when
        self._manager = manager
        self._lock = lock
        self._changed = changed

    def runtime(self, runtime_id: str) -> Runtime:
        """Return a runtime that is in memory.

        Raises
        ------
        RuntimeClosedError
            If it is no longer there.
        """
        runtime = self._manager.get(runtime_id)
        if runtime is None:
            raise RuntimeClosedError(
                f"{runtime_id!r} is no longer in memory.", hint="Load it again to use it."
            )
        return runtime

    def pin(self, runtime_id: str, pinned: bool) -> None:
        """Keep a runtime, or allow its eviction again."""
        (self._manager.pin if pinned else self._manager.unpin)(runtime_id)

    def unload(self, runtime_id: str, *, force: bool = False) -> str:
        """Give a runtime's memory back; returns the job's id.

        Parameters
        ----------
        force
            Stop what it does. Otherwise its end is waited for.
        """
        self.runtime(runtime_id)
        with self._lock:
            self.leaving |= {runtime_id}

        def task() -> None:
            try:
                self._manager.unload(runtime_id, force)
            except RuntimeClosedError:
                pass  # somebody else was faster
            finally:
                with self._lock:
                    self.leaving -= {runtime_id}

        return self._submit(task)

    def demote(self, runtime_id: str) -> str:
        """Move a runtime from the accelerator to host memory; returns the job's id."""
        self.runtime(runtime_id)
        return self._submit(lambda: self._manager.demote(runtime_id))

    def ask(self, holder_id: str) -> str:
        """Ask another kernel for the memory that it holds; returns the job's id.

        Raises
        ------
        RuntimeClosedError
            If it holds nothing any more.
        """
        holders = [one for one in self._manager.others() if str(one.pid) == holder_id]
        if not holders:
            raise RuntimeClosedError(
                "That kernel holds no memory any more.", hint="What it held is free."
            )
        return self._submit(lambda: self._ask(holders[0]))

    def was_asked(self, holder: Holder) -> bool:
        """Whether it was asked lately; what it gives shows in what it holds."""
        return time.time() - self._asked.get(holder.pid, 0.0) < PLEA_LIFE_S

    def _ask(self, holder: Holder) -> None:
        asked = False
        for place in {place for runtime in holder.runtimes for place in runtime.held_bytes}:
            needed_bytes = holder.held_bytes(place)
            asked |= bool(self._manager.neighbours.ask(place, needed_bytes, holder.pid))
        if asked:
            with self._lock:
                self._asked[holder.pid] = time.time()
        said = f"Asked {holder.title} for memory." if asked else f"{holder.title} is gone by now."
        self.said = time.time(), said

    def _submit(self, action: Callable[[], object]) -> str:
        """Run an action on a thread of its own: one that waits must not hold up the next."""
        self.problem = None
        self._changed("memory")

        def task(_cancel: object) -> None:
            try:
                action()
            except OllmError as error:
                self.problem = error
            except Exception as error:  # a person must see it, whatever a library raised
                self.problem = OllmError(f"{type(error).__name__}: {error}")
            self._changed("memory", "chat")

        return Lane("memory").submit(task)
