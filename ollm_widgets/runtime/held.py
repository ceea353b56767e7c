"""A model in memory: what it is, where its layers are, what it holds."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ollm_widgets.errors import ConfigError, RuntimeClosedError
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.runtime.memory import MemoryUse, measure
from ollm_widgets.runtime.own_caches import OwnCaches
from ollm_widgets.runtime.rebalance import moved_placement, require_room
from ollm_widgets.runtime.trace import Trace
from ollm_widgets.runtime.truth import RuntimeTruth
from ollm_widgets.runtime.worker import ModelWorker

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

    from ollm_widgets.backends.base import Backend, LoadedModel
    from ollm_widgets.models.capabilities import CapabilityProfile
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.ids import OffloadPolicy
    from ollm_widgets.planning.parts import LayerPlacement
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.predicted_and_measured import TruthReport


class HeldModel(Renderable):
    """A loaded model with its plan, and the one thread that owns it.

    Parameters
    ----------
    resolved_model, config, plan
        What was loaded, and how; the plan follows what becomes of it.
    backend, model_path
        Who has loaded it, from which files.
    loaded
        The model itself; gone once it is closed.
    truth
        Follows what its plan predicted; None begins anew and remembers nothing.
    """

    def __init__(
        self,
        *,
        resolved_model: ResolvedModel,
        config: RuntimeConfig,
        backend: Backend,
        model_path: Path,
        plan: RuntimePlan,
        loaded: LoadedModel,
        truth: RuntimeTruth | None = None,
    ) -> None:
        self.resolved_model = resolved_model
        self.config = config
        self.backend = backend
        self.model_path = model_path
        self.plan = plan
        self._loaded: LoadedModel | None = loaded
        self._caches = OwnCaches(lambda: self.plan, loaded, model_path, backend.traits)
        self._running_cache: Cache | None = None
        self._truth = truth or RuntimeTruth()
        self._worker = ModelWorker(resolved_model.display_name)

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.resolved_model.display_name

    @property
    def capabilities(self) -> CapabilityProfile:
        """What this runtime can do, in agreement with the plan as applied."""
        return replace(
            self.plan.capabilities,
            supports_disk_cache=self.plan.supports_disk_cache,
            supports_specialization=self.plan.specialization_applied,
        )

    @property
    def model(self) -> PreTrainedModel:
        """The transformers model."""
        return self._open().model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The transformers tokenizer."""
        return self._open().tokenizer

    @property
    def processor(self) -> Any:
        """The transformers processor, or None for a model that reads text only."""
        return self._open().processor

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._open().device

    @property
    def closed(self) -> bool:
        """Whether the model has left memory."""
        return self._loaded is None

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return self._worker.busy

    # ------------------------------------------------------------------ where its layers are

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
            emit(engine.rebalance(placement, stop))

        job = self._worker.submit(work)
        try:
            (reached,) = job.items(cancel)
        finally:
            self._note_placement()
        return reached

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Record where the time of each pass goes, layer by layer, while the context is open.

        Steps are not captured meanwhile: a graph shows its layers to nobody.

        Yields
        ------
        Trace
            Its ``passes`` are filled when the context closes.

        Raises
        ------
        ConfigError
            If this backend does not see its layers.
        """
        engine = self._open().engine
        if engine is None:
            raise ConfigError(
                "trace",
                f"{self.plan.backend_id} does not see the layers of its model.",
                hint="Load it with backend='optimized-native'.",
            )
        trace = Trace()
        self._on_worker(engine.start_trace)
        try:
            yield trace
        finally:
            self._on_worker(lambda: trace.passes.extend(engine.stop_trace()))

    # ------------------------------------------------------------------ what it holds

    def memory(self) -> MemoryUse:
        """Measure the bytes of weights and caches, by tier."""
        if self.closed:
            return MemoryUse()
        loaded = self._open()
        running = () if self._running_cache is None else (self._running_cache,)
        caches = {id(each): each for each in (*self._caches.all(), *running)}
        return measure(loaded.model, caches.values(), loaded.engine)

    @property
    def truth(self) -> TruthReport:
        """What the plan predicted of the load and the last answer, beside what was measured."""
        return self._truth.report(self.name, self.plan)

    def close(self) -> None:
        """Cancel what runs and give the memory back; calling it again does nothing."""
        self._worker.close()
        self._caches.clear()
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        on_accelerator = loaded.device.type == "cuda"
        if loaded.steps is not None:
            loaded.steps.close()
        if loaded.engine is not None:
            loaded.engine.close()
        del loaded
        gc.collect()
        if on_accelerator:
            import torch

            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # ------------------------------------------------------------------ on the worker's thread

    def _open(self) -> LoadedModel:
        if self._loaded is None:
            raise RuntimeClosedError(
                f"{self.name} was closed.", hint="Load the model again to use it."
            )
        return self._loaded

    def _on_worker(self, call: Callable[[], None]) -> None:
        """Run `call` between two requests, and wait for it."""
        for _ in self._worker.submit(lambda _stop, _emit: call()).items(None):
            pass

    def _note_placement(self) -> None:
        """Say in the plan where the layers are by now, and why."""
        engine = None if self._loaded is None else self._loaded.engine
        if engine is None or engine.placement == self.plan.placement:
            return
        self.plan = self.plan.refine(placement=engine.placement)
        self._note(engine.notes)

    def _note(self, notes: Iterable[str]) -> None:
        """Add to the plan's details what is not said there yet."""
        news = tuple(note for note in notes if note not in self.plan.details)
        if news:
            self.plan = self.plan.refine(details=(*self.plan.details, *news))
