"""From a config to a runtime: resolve, plan, materialize, load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ollm_widgets.backends.base import (
    Backend,
    LoadedModel,
    LoadProgress,
    ProgressSink,
    check_cancelled,
)
from ollm_widgets.backends.generic import GenericBackend
from ollm_widgets.backends.native import NativeBackend
from ollm_widgets.errors import (
    KVStrategyError,
    PlanNotExecutableError,
    SpecializationApplicationError,
    SpecializationLoadError,
)
from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.materialize import materialize
from ollm_widgets.models.reference import ModelReference
from ollm_widgets.models.resolved import ResolvedModel
from ollm_widgets.models.resolver import ModelResolver
from ollm_widgets.planning.advice import Advice, Replan, best_change, replanning
from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.planning.devices import Device, Machine, probe_machine
from ollm_widgets.planning.kv_choice import kv_folder
from ollm_widgets.planning.plan import RuntimePlan
from ollm_widgets.planning.selector import BackendSelector
from ollm_widgets.planning.specialization import SpecializationRegistry
from ollm_widgets.planning.speed.correcting import corrected_plan
from ollm_widgets.planning.speed.observed import default_store
from ollm_widgets.runtime.caches import make_cache, open_store
from ollm_widgets.runtime.letting_go import letting_go
from ollm_widgets.runtime.libraries import import_libraries
from ollm_widgets.runtime.load_times import LoadTimes
from ollm_widgets.runtime.loaded import LoadedRuntime
from ollm_widgets.runtime.memory import PeakMemory
from ollm_widgets.runtime.reuse import release
from ollm_widgets.runtime.truth import RuntimeTruth
from ollm_widgets.settings import default_models_dir


class SnapshotDownloader(Protocol):
    """Brings a resolved model's files to this machine; returns the checked folder."""

    def __call__(
        self,
        resolved: ResolvedModel,
        models_dir: Path,
        force_download: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
        cancel: threading.Event | None = None,
        *,
        file_progress: Callable[[str, int, int], None] | None = None,
    ) -> Path:
        """Bring them, or raise `ManagedModelDownloadError`."""
        ...


def _ignore(_progress: LoadProgress) -> None:
    """Nobody asked for progress."""


class RuntimeLoader:
    """The chain of stages, each of which can be replaced.

    Parameters
    ----------
    resolver
        Finds out what a reference is.
    selector
        Chooses backend, KV strategy and placement.
    backends
        What can load a model; by default transformers-generic, and optimized-native as
        far as it is available.
    snapshot_downloader
        Materializes a model.
    specialization_registry
        Passes that the optimized backend may apply.
    """

    def __init__(
        self,
        resolver: ModelResolver | None = None,
        selector: BackendSelector | None = None,
        backends: Iterable[Backend] | None = None,
        snapshot_downloader: SnapshotDownloader | None = None,
        specialization_registry: SpecializationRegistry | None = None,
    ) -> None:
        self.resolver = resolver or ModelResolver()
        self.backends: dict[str, Backend] = {
            backend.traits.backend_id: backend
            for backend in (backends or (NativeBackend(), GenericBackend()))
        }
        self.selector = selector or BackendSelector(
            tuple(backend.traits for backend in self.backends.values()), specialization_registry
        )
        self._materialize: SnapshotDownloader = snapshot_downloader or materialize

    # ------------------------------------------------------------------ before loading

    def resolve(
        self, reference: ModelReference | str, models_dir: Path | str | None = None
    ) -> ResolvedModel:
        """Find out what `reference` is; an unknown one resolves to an explanation.

        Raises
        ------
        ModelReferenceError
            If the text is no reference at all.
        """
        return self.resolver.resolve(reference, _models_dir(models_dir))

    def discover_local_models(
        self, models_dir: Path | str | None = None
    ) -> tuple[ResolvedModel, ...]:
        """List the models on this machine."""
        return self.resolver.discover_local_models(_models_dir(models_dir))

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        """Say what would run, whether it fits and how fast; downloads and loads nothing.

        Raises
        ------
        ConfigError
            If a field of `config` holds a value that cannot work.
        """
        config.validate()
        resolved = self.resolve(config.model_reference, config.models_dir)
        return corrected_plan(self.selector.select(resolved, config))

    def plan_with(self, config: RuntimeConfig, more_bytes: Mapping[str, int]) -> RuntimePlan:
        """Plan as if more memory were free, as it is once other runtimes have left.

        Parameters
        ----------
        more_bytes
            By place: ``ram``, or a device such as ``cuda:0``.

        Raises
        ------
        ConfigError
            If a field of `config` holds a value that cannot work.
        """
        config.validate()
        resolved = self.resolve(config.model_reference, config.models_dir)
        machine = _with_more_free(probe_machine(), more_bytes)
        return corrected_plan(self.selector.select(resolved, config, machine))

    def other_plans(self, plan: RuntimePlan) -> tuple[RuntimePlan, ...]:
        """Plan the other backends that could run it, in the selector's order.

        None where a backend was asked for.
        """
        if plan.config.backend is not None:
            return ()
        allowed = {"optimized-native": plan.config.use_specialization}
        plans = (
            self.plan(plan.config.copy(backend=backend_id))
            for backend_id in self.backends
            if backend_id != plan.backend_id and allowed.get(backend_id, True)
        )
        return tuple(other for other in plans if other.is_executable())

    def explain(self, plan: RuntimePlan, more_bytes: Mapping[str, int] | None = None) -> str:
        """Tell a plan in sentences, with the one change that would help it most; see `advice`."""
        return plan.explain(self._replanning(plan, more_bytes or {}))

    def advice(
        self, plan: RuntimePlan, more_bytes: Mapping[str, int] | None = None
    ) -> Advice | None:
        """Find the one change that would help a plan most, by planning with others; None if none.

        Parameters
        ----------
        more_bytes
            By place: what counts as free besides, as it did for the plan; see `plan_with`.

        Raises
        ------
        ConfigError
            If the plan's config no longer works.
        """
        return best_change(plan, self._replanning(plan, more_bytes or {}))

    def _replanning(self, plan: RuntimePlan, more_bytes: Mapping[str, int]) -> Replan:
        machine = _with_more_free(probe_machine(), more_bytes)
        replan = replanning(self.selector, plan.resolved_model, machine)

        def corrected(
            config: RuntimeConfig, more_gpu_bytes: int = 0, more_ram_bytes: int = 0
        ) -> RuntimePlan:
            # As the plan itself is, so that like is compared with like.
            return corrected_plan(replan(config, more_gpu_bytes, more_ram_bytes))

        return corrected

    def inspect_remote(self, reference: ModelReference | str) -> ResolvedModel:
        """Read config and tensor headers of a hub model, no weights.

        `plan` knows the model from then on, before its files are here.

        Raises
        ------
        OllmError
            When the hub cannot be asked, or has no such model; see `models.remote`.
        """
        from ollm_widgets.models.remote import inspect_remote

        return inspect_remote(reference, self.resolver)

    def download(
        self,
        reference: ModelReference | str,
        models_dir: Path | str | None = None,
        force_download: bool = False,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Path:
        """Bring a model's files to this machine and check them; a local path is itself.

        Raises
        ------
        UnsupportedModelError
            For what cannot be downloaded.
        ManagedModelDownloadError
            If the files are incomplete; it lists each gap.
        """
        return self._bring(
            self.resolve(reference, models_dir),
            _models_dir(models_dir),
            force_download,
            progress or _ignore,
            cancel or threading.Event(),
        )

    # ------------------------------------------------------------------ loading

    @letting_go
    def load(
        self,
        config: RuntimeConfig,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> LoadedRuntime:
        """Load the model that `config` describes.

        Parameters
        ----------
        progress
            Called with each `LoadProgress`, on the calling thread.
        cancel
            Set it from another thread to end the load with `Cancelled`.

        Raises
        ------
        OllmError
            Some leaf of the tree, with what to do next.
        """
        progress, cancel = progress or _ignore, cancel or threading.Event()
        config = config.copy()
        config.validate()
        models_dir = _models_dir(config.models_dir)
        resolved = self.resolver.resolve(config.model_reference, models_dir)
        path = self._bring(resolved, models_dir, config.force_download, progress, cancel)
        import_libraries(progress, cancel)
        times = LoadTimes()
        times.enter("Plan")
        inspected = inspect_materialized_model(
            resolved.reference,
            path,
            resolved.source_kind,
            resolved.repo_id,
            resolved.revision,
            resolved.catalog_entry,
        )
        plan = corrected_plan(self.selector.select(inspected, config))
        check_cancelled(cancel)
        plan = _with_usable_store(plan, path)
        peak = PeakMemory(plan.devices if plan.is_executable() else ())
        try:
            loaded = self._load_by(plan, path, times.watching(progress), cancel)
            plan = _as_applied(plan, loaded)
        except (SpecializationLoadError, SpecializationApplicationError) as error:
            if not _may_fall_back(config, plan):
                raise
            plan = self._fallback_plan(inspected, config, error)
            if not plan.is_executable():
                raise
            times = LoadTimes()
            loaded = self._load_by(plan, path, times.watching(progress), cancel)
        times.end()
        try:
            plan = _with_working_cache(plan, loaded)
        except BaseException:
            loaded.close()
            raise
        truth = RuntimeTruth(default_store(), peak)
        runtime = LoadedRuntime(
            resolved_model=inspected,
            config=_effective(config, plan),
            backend=self.backends[str(plan.backend_id)],
            model_path=path,
            plan=plan,
            loaded=loaded,
            truth=truth,
        )
        truth.loaded(plan, times.stages(), runtime.memory())
        truth.remember(plan)
        return runtime

    def _bring(
        self,
        resolved: ResolvedModel,
        models_dir: Path,
        force_download: bool,
        progress: ProgressSink,
        cancel: threading.Event,
    ) -> Path:
        if not resolved.is_supported():
            raise resolved.refusal()
        return self._materialize(
            resolved,
            models_dir,
            force_download,
            lambda stage, done, total: progress(LoadProgress(stage, done, total)),
            cancel,
            file_progress=lambda file, done, total: progress(
                LoadProgress("Download", done, total, file)
            ),
        )

    def _load_by(
        self, plan: RuntimePlan, path: Path, progress: ProgressSink, cancel: threading.Event
    ) -> LoadedModel:
        if not plan.is_executable() or plan.backend_id is None:
            raise PlanNotExecutableError(plan.reason)
        return self.backends[plan.backend_id].load(plan, path, progress, cancel)

    def _fallback_plan(
        self, resolved: ResolvedModel, config: RuntimeConfig, error: Exception
    ) -> RuntimePlan:
        """Plan once more without specialization, so that the KV choice is made anew."""
        plan = self.selector.select(resolved, config.copy(use_specialization=False))
        return corrected_plan(plan).refine(
            specialization_state="fallback", fallback_reason=str(error)
        )


def _with_usable_store(plan: RuntimePlan, path: Path) -> RuntimePlan:
    """See to it that prompts can be kept on disk, where they shall, before weights are read.

    Returns
    -------
    RuntimePlan
        With a word on what was there and could not be used.

    Raises
    ------
    KVStrategyError
        If their folder cannot be used.
    """
    store = open_store(plan, path, plan.config) if plan.is_executable() else None
    if store is None:
        return plan
    with store:
        return plan.refine(details=(*plan.details, *store.notes))


def _as_applied(plan: RuntimePlan, loaded: LoadedModel) -> RuntimePlan:
    """Say of the plan what did happen."""
    if plan.specialization_state != "planned":
        return plan
    plan = plan.refine(
        specialization_state="applied",
        specialization_applied=True,
        applied_specialization_pass_ids=loaded.applied_pass_ids,
        details=(*plan.details, *loaded.notes),
    )
    return plan if loaded.engine is None else plan.refine(placement=loaded.engine.placement)


def _may_fall_back(config: RuntimeConfig, plan: RuntimePlan) -> bool:
    asked = (config.offload_gpu_layers, config.offload_cpu_layers)
    asked_for_offload = any(count is not None for count in asked)
    return config.backend is None and plan.generic_model_kind is not None and not asked_for_offload


def _with_working_cache(plan: RuntimePlan, loaded: LoadedModel) -> RuntimePlan:
    """Walk the plan's chain of strategies until one can be built for this model.

    Raises
    ------
    KVStrategyError
        If none can; of the first, which is the one that was asked for.
    """
    first_error: KVStrategyError | None = None
    folder = kv_folder(plan.config)
    for strategy in (plan.kv.strategy, *plan.kv.fallbacks):
        try:
            release(make_cache(loaded.model, replace(plan.kv, strategy=strategy), folder))
        except KVStrategyError as error:
            first_error = first_error or error
            continue
        if first_error is None:
            return plan
        why = f"{plan.kv.strategy} cannot be built: {first_error.message}"
        return plan.refine(kv=replace(plan.kv, strategy=strategy, why=why))
    raise first_error or KVStrategyError(f"No KV strategy is planned for {plan.backend_id}.")


def _effective(config: RuntimeConfig, plan: RuntimePlan) -> RuntimeConfig:
    """The config with every automatic choice filled in."""
    return config.copy(
        backend=plan.backend_id,
        device=plan.device,
        dtype=plan.dtype,
        kv_cache_strategy=plan.kv.strategy,
        kv_cache_window_tokens=plan.kv.window_tokens,
        context_tokens=plan.kv.context_tokens,
    )


def _with_more_free(machine: Machine, more_bytes: Mapping[str, int]) -> Machine:
    def enlarged(device: Device, place: str) -> Device:
        free_bytes = min(device.free_bytes + more_bytes.get(place, 0), device.total_bytes)
        return replace(device, free_bytes=free_bytes)

    cpu = enlarged(machine.cpu, "ram")
    return Machine(
        cpu,
        tuple(enlarged(device, device.name) for device in machine.accelerators),
        machine.ram_total_bytes,
        cpu.free_bytes,
    )


def _models_dir(models_dir: Path | str | None) -> Path:
    return default_models_dir() if models_dir is None else Path(models_dir).expanduser()
