"""What a runtime gives back when it is closed, or when nobody holds it any more."""

from __future__ import annotations

import atexit
import gc
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollm_widgets.backends.base import LoadedModel
    from ollm_widgets.runtime.demotion import Demotion
    from ollm_widgets.runtime.own_caches import OwnCaches
    from ollm_widgets.runtime.worker import ModelWorker


class Belongings:
    """A model in memory, its caches and its thread; they do not know the runtime they belong to.

    Parameters
    ----------
    loaded
        The model; None once it has left memory.
    caches, worker, demotion
        What works with it.
    """

    def __init__(
        self, loaded: LoadedModel, caches: OwnCaches, worker: ModelWorker, demotion: Demotion
    ) -> None:
        self.loaded: LoadedModel | None = loaded
        self.caches = caches
        self.worker = worker
        self.demotion = demotion
        self._closing = threading.RLock()
        self._finalizer: weakref.finalize[..., object] | None = None

    def follow(self, owner: object) -> None:
        """Close when nobody holds `owner` any more, or when the interpreter ends.

        A thread that is in the midst of a pass when the interpreter goes would take it down.
        """
        self._finalizer = weakref.finalize(owner, self.close)
        # Before what else ends then: caches are saved while they are open.
        self._finalizer.atexit = False
        atexit.register(self.close_at_exit)

    def close_at_exit(self) -> None:
        """Close, and have who waits see a cancel, which is no error to most."""
        self.worker.cancel_all()
        self.close()

    def close(self) -> None:
        """Cancel what runs and give everything back; calling it again does nothing."""
        self.worker.close()
        with self._closing:
            try:
                self.caches.clear()
            finally:
                # Keys and values that cannot be saved do not keep the weights in memory.
                self._unload()
            if self._finalizer is not None:
                atexit.unregister(self.close_at_exit)
                self._finalizer.detach()

    def _unload(self) -> None:
        loaded, self.loaded = self.loaded, None
        if loaded is None:
            return
        on_accelerator = loaded.device.type == "cuda"
        try:
            loaded.close()
        finally:
            self.demotion.close()
        del loaded
        gc.collect()
        if on_accelerator:
            import torch

            torch.cuda.empty_cache()
