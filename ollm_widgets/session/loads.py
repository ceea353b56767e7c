"""The loads of a session, one at a time."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ollm_widgets.errors import Cancelled, ConfigError, OllmError
from ollm_widgets.session.lane import Lane, current_job
from ollm_widgets.session.loading import Loading
from ollm_widgets.session.parts import PARTS, Changed

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadProgress
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.runtime.residency.manager import RuntimeManager
    from ollm_widgets.runtime.residency.records import Lease


class Loads:
    """Loads on a lane of its own, and remembers how the latest load went.

    Parameters
    ----------
    manager
        Who loads.
    lock
        The session's lock; held while state changes.
    changed
        Called after each change.
    arrived
        Called with what was asked for and the lease on what came of it, with the lock held.
    """

    def __init__(
        self,
        manager: RuntimeManager,
        lock: threading.RLock,
        changed: Changed,
        arrived: Callable[[RuntimeConfig, Lease], None],
    ) -> None:
        self.latest = Loading()
        self.job: str | None = None  # of the latest
        self._manager = manager
        self._lock = lock
        self._changed = changed
        self._arrived = arrived
        self._lane = Lane("load")

    def require_none(self) -> None:
        """Refuse what cannot be done while a load runs.

        Raises
        ------
        ConfigError
            If one runs.
        """
        if self.latest.active:
            raise ConfigError(
                "load", f"{self.latest.model} is being loaded.", hint="Cancel it, or wait."
            )

    def begin(self, config: RuntimeConfig, name: str, *, anyway: bool = False) -> str:
        """Start to load; the caller holds the lock. Returns the job's id.

        Parameters
        ----------
        name
            What a person calls the model.
        anyway
            Load although room could not be made.
        """
        self.latest.begin(name)
        self.job = job = self._lane.submit(lambda cancel: self._load(config, cancel, anyway=anyway))
        return job

    def cancel(self) -> None:
        """Cancel the load that runs; harmless when there is none."""
        self._lane.cancel()
        with self._lock:
            if self.latest.state != "loading":
                return
            self.latest.state = "cancelling"
        self._changed("loading")

    def forget(self) -> None:
        """Show nothing of the latest load any more, unless it runs."""
        if not self.latest.active:
            self.latest = Loading()

    def _load(self, config: RuntimeConfig, cancel: threading.Event, *, anyway: bool) -> None:
        """Runs on the lane."""
        try:
            progress = functools.partial(self._on_progress, current_job.get())
            # A person has asked: what has just failed is tried again at once.
            lease = self._manager.acquire(config, progress, cancel, retry=True, anyway=anyway)
            with lease, self._lock:
                self._arrived(config, lease)
                self.latest.end("loaded")
        except Cancelled:
            with self._lock:
                self.latest.end("cancelled")
        except OllmError as error:
            with self._lock:
                self.latest.end("failed", error)
        except Exception as error:  # a person must see it, whatever a library raised
            with self._lock:
                self.latest.end("failed", OllmError(f"{type(error).__name__}: {error}"))
        self._changed(*PARTS)

    def _on_progress(self, job: str | None, progress: LoadProgress) -> None:
        # Comes on the load's thread, which must not wait for a reader of the session.
        self.latest.report(progress)
        self._changed("loading", job=job)
