"""What a manager needs of who loads for it, here or on other machines."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ollm_widgets.backends.base import Backend, ProgressSink
    from ollm_widgets.models.reference import ModelReference
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.models.resolver import ModelResolver
    from ollm_widgets.planning.advice import Advice
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.interface import Runtime


class Loader(Protocol):
    """Plans and loads: `RuntimeLoader`, or what a cluster makes of one; each method as there.

    A plan with a `node` takes nothing of this machine, and neither does what is loaded by it.
    """

    resolver: ModelResolver
    backends: dict[str, Backend]

    def resolve(
        self, reference: ModelReference | str, models_dir: Path | str | None = None
    ) -> ResolvedModel:
        """Find out what `reference` is."""
        ...

    def inspect_remote(self, reference: ModelReference | str) -> ResolvedModel:
        """Read config and tensor headers of a hub model."""
        ...

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        """Say what would run; it is asked for each lease, so it is quick."""
        ...

    def plan_with(self, config: RuntimeConfig, more_bytes: Mapping[str, int]) -> RuntimePlan:
        """Plan as if more memory of this machine were free."""
        ...

    def other_plans(self, plan: RuntimePlan) -> tuple[RuntimePlan, ...]:
        """Plan the other backends that could run it."""
        ...

    def explain(self, plan: RuntimePlan, more_bytes: Mapping[str, int] | None = None) -> str:
        """Tell a plan in sentences."""
        ...

    def advice(
        self, plan: RuntimePlan, more_bytes: Mapping[str, int] | None = None
    ) -> Advice | None:
        """Find the one change that would help a plan most."""
        ...

    def download(
        self,
        reference: ModelReference | str,
        models_dir: Path | str | None = None,
        force_download: bool = False,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Path:
        """Bring a model's files to this machine."""
        ...

    def load(
        self,
        config: RuntimeConfig,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Runtime:
        """Load the model that `config` describes."""
        ...


class Elsewhere(Protocol):
    """Other machines that run models for a manager; see `ollm_widgets.cluster`."""

    def over(self, loader: Loader) -> Loader:
        """Return what loads there what belongs there, and by `loader` all the rest."""
        ...

    def leave(self) -> None:
        """Give up what this process claims there; the models stay in memory there."""
        ...
