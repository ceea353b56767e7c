"""A model in memory that moves: its layers between tiers, all of it off accelerators and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError
from ollm_widgets.runtime.held import HeldModel
from ollm_widgets.runtime.letting_go import letting_go
from ollm_widgets.runtime.rebalance import moved_placement, require_room
from ollm_widgets.runtime.trace import Trace
from ollm_widgets.runtime.worker import ITSELF

if TYPE_CHECKING:
    from ollm_widgets.backends.base import ProgressSink
    from ollm_widgets.planning.ids import OffloadPolicy
    from ollm_widgets.planning.parts import LayerPlacement


class PlacedModel(HeldModel):
    """A loaded model, and where it is."""

    # ------------------------------------------------------------------ where its layers are

    @letting_go
    def rebalance(
        self,
        offload_gpu_layers: int | None = None,
        offload_cpu_layers: int | None = None,
        offload_cpu_policy: OffloadPolicy | None = None,
        cancel: threading.Event | None = None,
    ) -> LayerPlacement:
        """Move layers between accelerator, host memory and disk without loading again.

        Waits for its turn behind the requests that run.

        Parameters
        ----------
        offload_gpu_layers, offload_cpu_layers
            Layers that shall stay on the accelerator, and in host memory. None for the host keeps
            as many in memory as are there; None for the accelerator keeps its count.
        offload_cpu_policy
            Which are the host's; None keeps the policy.
        cancel
            Set it from another thread to end between two layers; the model works all the same.

        Returns
        -------
        LayerPlacement
            Where the layers are then.

        Raises
        ------
        ConfigError
            If the counts cannot be had, or this backend keeps its layers in one place.
        OutOfMemory
            If a tier has too little room; nothing has moved.
        """
        engine = self._open().engine
        if engine is None:
            raise ConfigError(
                "rebalance",
                f"{self.plan.backend_id} keeps the whole model on one device.",
                hint="Load it with backend='optimized-native' to move layers.",
            )
        on_cpu = self.device.type == "cpu"
        placement = moved_placement(
            engine.placement,
            offload_gpu_layers,
            offload_cpu_layers,
            offload_cpu_policy or self.config.offload_cpu_policy,
            on_cpu=on_cpu,
        )
        require_room(self.plan, placement, engine.layer_bytes, on_cpu=on_cpu)

        def work(stop: threading.Event, emit: Callable[[LayerPlacement], None]) -> None:
            self._come_back()
            emit(engine.rebalance(placement, stop))

        job = self._worker.submit(work, ITSELF)
        try:
            (reached,) = job.items(cancel)
        finally:
            self._note_placement()
        return reached

    @property
    def untraceable(self) -> str:
        """Why `trace` cannot follow its layers, in a sentence; empty where it can."""
        traits = self.backend.traits
        if traits.supports_cpu_offload or traits.supports_gpu_offload:
            return ""
        return f"{traits.backend_id} does not see the layers of its model."

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Record where the time of each pass goes, layer by layer, while the context is open.

        Captured steps stay captured, with moments inside them; the first of a trace may wait for
        that capture. See `Trace` for which of them are recorded.

        Yields
        ------
        Trace
            Its ``passes`` are filled when the context closes.

        Raises
        ------
        ConfigError
            If this backend does not see its layers, or another trace of this model is open.
        """
        engine = self._open().engine
        if engine is None:
            raise ConfigError(
                "trace",
                f"{self.plan.backend_id} does not see the layers of its model.",
                hint="Load it with backend='optimized-native'.",
            )
        trace = Trace()

        def start() -> None:
            self._come_back()
            engine.start_trace()

        self._on_worker(start)
        try:
            yield trace
        finally:
            self._on_worker(lambda: trace.passes.extend(engine.stop_trace()))

    # ------------------------------------------------------------------ away from accelerators

    @property
    def can_demote(self) -> bool:
        """Whether something of it is on an accelerator, and could go to host memory."""
        return not self.closed and self._demotion.possible and not self._demotion.demoted

    @property
    def demoted(self) -> bool:
        """Whether what belongs on accelerators is in host memory; a request brings it back."""
        return not self.closed and self._demotion.demoted

    @property
    def keeps_host_copy(self) -> bool:
        """Whether its copy in host memory stays after a return, so that leaving again is free."""
        return self._demotion.keeps_host_copy

    @keeps_host_copy.setter
    def keeps_host_copy(self, keeps: bool) -> None:
        self._demotion.keeps_host_copy = keeps

    @letting_go
    def demote(self, cancel: threading.Event | None = None) -> None:
        """Give everything on accelerators back, and keep it in page-locked host memory.

        Waits for its turn behind the requests that run; one that is demoted stays so. Keys and
        values of the last conversation go along, unless its cache has tiers of its own: that one
        is emptied, and the next prompt computed anew or found on disk.

        Parameters
        ----------
        cancel
            Set it from another thread to end between two layers; nothing has moved then.

        Raises
        ------
        ConfigError
            If nothing of it is on an accelerator.
        Cancelled, OutOfMemory
            It stays where it is, and works.
        """
        self._open()
        if not self._demotion.possible:
            raise ConfigError(
                "demote",
                f"nothing of {self.name} on {self.device} could go to host memory.",
                hint="Unload it to get its memory back.",
            )

        def work(stop: threading.Event, _emit: Callable[[None], None]) -> None:
            self._demotion.demote(stop)

        for _ in self._worker.submit(work, ITSELF).items(cancel):
            pass

    @letting_go
    def restore(
        self, progress: ProgressSink | None = None, cancel: threading.Event | None = None
    ) -> None:
        """Bring back what `demote` took away; a request does so by itself.

        Parameters
        ----------
        progress
            Is told of the bytes that have come back, on the runtime's thread.
        cancel
            Set it from another thread to end between two layers; it stays demoted then.

        Raises
        ------
        Cancelled, OutOfMemory
            It stays demoted, and can come back later. Layers alone for which there is no room
            stay in host memory instead, and are streamed from there.
        """

        def work(stop: threading.Event, _emit: Callable[[None], None]) -> None:
            self._come_back(progress, stop)

        for _ in self._worker.submit(work, ITSELF).items(cancel):
            pass

    def release_host_copy(self) -> None:
        """Let go of the copy in host memory that only makes the next demotion quick."""
        if not self.closed:
            self._on_worker(self._demotion.release_host_copy)

    # ------------------------------------------------------------------ on the worker's thread

    def _come_back(
        self, progress: ProgressSink | None = None, cancel: threading.Event | None = None
    ) -> None:
        """Return from host memory before anything runs; a request's own cancel is seen after."""
        if self.demoted:
            self._demotion.restore(progress, cancel or threading.Event())
            self._note_placement()
