"""Loads on this machine, and on a cluster what asks for one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollm_widgets.backends.base import ProgressSink
    from ollm_widgets.models.reference import ModelReference
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.advice import Advice
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.elsewhere import Loader


class KernelLoader:
    """A loader that knows a cluster from the first config on that belongs there.

    Parameters
    ----------
    here
        Loads on this machine.
    there
        Makes what loads on the cluster; called once at most.
    """

    def __init__(self, here: Loader, there: Callable[[], Loader]) -> None:
        self.resolver = here.resolver
        self.backends = here.backends
        self._here = here
        self._make_there = there
        self._there: Loader | None = None
        self._making = threading.Lock()

    # ------------------------------------------------------------------ by the config

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        """Say what would run; see `RuntimeLoader.plan`."""
        return self._of(config).plan(config)

    def plan_with(self, config: RuntimeConfig, more_bytes: Mapping[str, int]) -> RuntimePlan:
        """Plan as if more memory of this machine were free; see `RuntimeLoader.plan_with`."""
        return self._of(config).plan_with(config, more_bytes)

    def other_plans(self, plan: RuntimePlan) -> tuple[RuntimePlan, ...]:
        """Plan the other backends that could run it."""
        return self._of(plan.config).other_plans(plan)

    def explain(self, plan: RuntimePlan, more_bytes: Mapping[str, int] | None = None) -> str:
        """Tell a plan in sentences."""
        return self._of(plan.config).explain(plan, more_bytes)

    def advice(
        self, plan: RuntimePlan, more_bytes: Mapping[str, int] | None = None
    ) -> Advice | None:
        """Find the one change that would help a plan most."""
        return self._of(plan.config).advice(plan, more_bytes)

    def load(
        self,
        config: RuntimeConfig,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Runtime:
        """Load the model that `config` describes; see `RuntimeLoader.load`."""
        return self._of(config).load(config, progress, cancel)

    # ------------------------------------------------------------------ always here

    def resolve(
        self, reference: ModelReference | str, models_dir: Path | str | None = None
    ) -> ResolvedModel:
        """Find out what `reference` is."""
        return self._here.resolve(reference, models_dir)

    def inspect_remote(self, reference: ModelReference | str) -> ResolvedModel:
        """Read config and tensor headers of a hub model."""
        return self._here.inspect_remote(reference)

    def download(
        self,
        reference: ModelReference | str,
        models_dir: Path | str | None = None,
        force_download: bool = False,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Path:
        """Bring a model's files to this machine."""
        return self._here.download(reference, models_dir, force_download, progress, cancel)

    def _of(self, config: RuntimeConfig) -> Loader:
        if str(config.device).partition(":")[0] != "ray":
            return self._here
        with self._making:
            if self._there is None:
                self._there = self._make_there()
            return self._there
