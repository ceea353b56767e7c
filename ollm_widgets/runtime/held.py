"""A model in memory: what it is, where its layers are, what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ollm_widgets.errors import RuntimeClosedError
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.runtime.belongings import Belongings
from ollm_widgets.runtime.chat_traits import ChatTraits, sampling_of
from ollm_widgets.runtime.demotion import Demotion
from ollm_widgets.runtime.instructions import takes_instructions
from ollm_widgets.runtime.memory import MemoryUse, measure
from ollm_widgets.runtime.own_caches import OwnCaches
from ollm_widgets.runtime.truth import RuntimeTruth
from ollm_widgets.runtime.turns import QueuedRequest
from ollm_widgets.runtime.worker import ITSELF, ModelWorker

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

    from ollm_widgets.backends.base import Backend, LoadedModel
    from ollm_widgets.models.capabilities import CapabilityProfile
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.predicted_and_measured import TruthReport
    from ollm_widgets.runtime.reuse import PrefixReuse


@dataclass(slots=True)
class _CurrentPlan:
    """The plan by now, for what must not hold the runtime itself."""

    plan: RuntimePlan

    def now(self) -> RuntimePlan:
        return self.plan


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
        self._current = _CurrentPlan(plan)
        self._caches = OwnCaches(self._current.now, loaded, model_path, backend.traits)
        self._running_cache: Cache | None = None
        self._to_save: list[PrefixReuse] = []
        self._truth = truth or RuntimeTruth()
        self._worker = ModelWorker(resolved_model.display_name)
        self._demotion = Demotion(loaded, self._caches, self._current.now)
        self._belongings = Belongings(loaded, self._caches, self._worker, self._demotion)
        self._belongings.follow(self)
        self._closed_why = ""
        self._instructions: tuple[Any, bool] = (None, True)  # a template, and whether it has them

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.resolved_model.display_name

    @property
    def plan(self) -> RuntimePlan:
        """How it runs now; it follows what becomes of the runtime."""
        return self._current.plan

    @plan.setter
    def plan(self, plan: RuntimePlan) -> None:
        self._current.plan = plan

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
    def chat_traits(self) -> ChatTraits:
        """What its files say of talking to it."""
        loaded = self._open()
        template = loaded.tokenizer.chat_template
        if self._instructions[0] != template:
            self._instructions = (template, takes_instructions(loaded.tokenizer))
        sampling = sampling_of(loaded.model.generation_config)
        return ChatTraits(bool(template), self._instructions[1], sampling)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._open().device

    @property
    def closed(self) -> bool:
        """Whether the model has left memory."""
        return self._loaded is None

    # ------------------------------------------------------------------ who asks it

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits."""
        return self._worker.busy

    @property
    def queue(self) -> tuple[QueuedRequest, ...]:
        """The request that runs, and those that wait, in the order of their turns."""
        return self._worker.queue

    def watch_activity(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback` with True when the first request comes, with False when the last ends.

        Calls come in order, one at a time, on whatever thread made the change.

        Returns
        -------
        callable
            Ends it; calling it twice is harmless.
        """
        return self._worker.watch(callback)

    def cancel_running(self) -> bool:
        """End the request that runs, as its caller could; False where none does."""
        return self._worker.cancel_running()

    def close_if_idle(self, why: str = "") -> bool:
        """Close, unless a request runs or waits; whether it is closed. See `close`."""
        if not self._worker.shut_if_idle():
            return False
        self.close(why)
        return True

    # ------------------------------------------------------------------ what it holds

    def memory(self) -> MemoryUse:
        """Measure the bytes of weights and caches, by tier."""
        if self.closed:
            return MemoryUse()
        loaded = self._open()
        running = () if self._running_cache is None else (self._running_cache,)
        caches = {id(each): each for each in (*self._caches.all(), *running)}
        return measure(
            loaded.model,
            caches.values(),
            loaded.engine,
            demoted=self._demotion.demoted,
            host_copies_bytes=self._demotion.host_copies_bytes,
        )

    @property
    def truth(self) -> TruthReport:
        """What the plan predicted of the load and the last answer, beside what was measured."""
        return self._truth.report(self.name, self.plan)

    def close(self, why: str = "") -> None:
        """Cancel what runs and give the memory back; calling it again does nothing.

        Parameters
        ----------
        why
            Told to who asks it from then on: ``" for gamma"`` goes on "alpha was closed".
        """
        if not self.closed:
            self._closed_why = why
        self._belongings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # ------------------------------------------------------------------ on the worker's thread

    @property
    def _loaded(self) -> LoadedModel | None:
        return self._belongings.loaded

    def _open(self) -> LoadedModel:
        if self._loaded is None:
            raise RuntimeClosedError(
                f"{self.name} was closed{self._closed_why}.", hint="Load the model again to use it."
            )
        return self._loaded

    def _on_worker(self, call: Callable[[], None]) -> None:
        """Run `call` between two requests, and wait for it."""
        for _ in self._worker.submit(lambda _stop, _emit: call(), ITSELF).items():
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
