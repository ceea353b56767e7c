"""Loads on the cluster what belongs there, and by the loader of this machine all the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.backends.base import LoadProgress, ProgressSink
from ollm_widgets.cluster.client.calls import Place
from ollm_widgets.cluster.client.errand import Errands
from ollm_widgets.cluster.client.outlook import Outlook
from ollm_widgets.cluster.client.wanting import goes_to_cluster, wanted_of
from ollm_widgets.cluster.far.runtime import RemoteRuntime
from ollm_widgets.cluster.messages import Described, Wanted
from ollm_widgets.runtime.letting_go import letting_go

if TYPE_CHECKING:
    from ollm_widgets.cluster.client.connection import Visit
    from ollm_widgets.cluster.options import ClusterOptions
    from ollm_widgets.models.reference import ModelReference
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.advice import Advice
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.interface import Runtime
    from ollm_widgets.runtime.residency.elsewhere import Loader


class ClusterLoader:
    """A `Loader`; see `Cluster.over`.

    Parameters
    ----------
    errands
        Who carries requests out.
    options
        Of the cluster.
    here
        Loads on this machine.
    auto
        Whether a config of device ``auto`` goes to the cluster, too.
    began
        Called before something is loaded there.
    """

    def __init__(
        self,
        errands: Errands,
        options: ClusterOptions,
        here: Loader,
        *,
        auto: bool,
        began: Callable[[], None],
    ) -> None:
        self.resolver = here.resolver
        self.backends = here.backends
        self._here = here
        self._errands = errands
        self._options = options
        self._auto = auto
        self._began = began
        self._outlook = Outlook(errands.calls, here)

    # ------------------------------------------------------------------ before loading

    def resolve(
        self, reference: ModelReference | str, models_dir: Path | str | None = None
    ) -> ResolvedModel:
        """Find out what `reference` is on this machine."""
        return self._here.resolve(reference, models_dir)

    def inspect_remote(self, reference: ModelReference | str) -> ResolvedModel:
        """Read config and tensor headers of a hub model, no weights."""
        return self._here.inspect_remote(reference)

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        """Say what would run and on which node; starts and loads nothing.

        Raises
        ------
        ConfigError
            If a field of `config` holds a value that cannot work.
        """
        if not self._is_there(config):
            return self._here.plan(config)
        config.validate()
        return self._outlook.plan(config, self._wanted(config))

    def plan_with(self, config: RuntimeConfig, more_bytes: Mapping[str, int]) -> RuntimePlan:
        """Plan as if more memory of this machine were free, which is nothing to a node."""
        if self._is_there(config):
            return self.plan(config)
        return self._here.plan_with(config, more_bytes)

    def other_plans(self, plan: RuntimePlan) -> tuple[RuntimePlan, ...]:
        """Plan the other backends that could run it; a node tries those by itself."""
        return () if plan.node else self._here.other_plans(plan)

    def explain(self, plan: RuntimePlan, more_bytes: Mapping[str, int] | None = None) -> str:
        """Tell a plan in sentences."""
        return plan.explain() if plan.node else self._here.explain(plan, more_bytes)

    def advice(
        self, plan: RuntimePlan, more_bytes: Mapping[str, int] | None = None
    ) -> Advice | None:
        """Find the one change that would help a plan most; None for one of a node."""
        return None if plan.node else self._here.advice(plan, more_bytes)

    def download(
        self,
        reference: ModelReference | str,
        models_dir: Path | str | None = None,
        force_download: bool = False,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Path:
        """Bring a model's files to this machine; a node brings them by itself."""
        return self._here.download(reference, models_dir, force_download, progress, cancel)

    # ------------------------------------------------------------------ loading

    @letting_go
    def load(
        self,
        config: RuntimeConfig,
        progress: ProgressSink | None = None,
        cancel: threading.Event | None = None,
    ) -> Runtime:
        """Load the model that `config` describes, where it belongs.

        Connects to the cluster, and starts hosts, if need be.

        Parameters
        ----------
        progress
            Called with each `LoadProgress`, those of the node too, on the calling thread.
        cancel
            Set it from another thread to end the load with `Cancelled`, on the node too.

        Raises
        ------
        OllmError
            Some leaf of the tree, with what to do next; of a node it names the node.
        """
        if not self._is_there(config):
            return self._here.load(config, progress, cancel)
        config = config.copy()
        config.validate()
        progress, cancel = progress or _ignore, cancel or threading.Event()
        wanted = self._wanted(config)
        self._began()
        self._outlook.forget()
        calls = self._errands.calls
        visit = calls.visit
        calls.claim(wanted, visit, progress, cancel)
        try:
            place, described = self._loaded(wanted, visit, progress, cancel)
            return RemoteRuntime(self._errands, wanted, config, place, described)
        except BaseException:
            calls.post.begin(lambda: calls.end_use(wanted.key))
            raise
        finally:
            self._outlook.forget()

    def _loaded(
        self, wanted: Wanted, visit: Visit, progress: ProgressSink, cancel: threading.Event
    ) -> tuple[Place, Described]:
        def use(place: Place, described: Described | None) -> tuple[Place, Described]:
            if described is None:
                # It is in memory there already, and says at once what it is.
                described = self._errands.load(place, wanted, cancel, progress=progress)
            self._errands.calls.release(place)
            return place, described

        return self._errands.run(wanted, visit, cancel, use, progress=progress)

    # ------------------------------------------------------------------ inside

    def _is_there(self, config: RuntimeConfig) -> bool:
        return goes_to_cluster(config, auto=self._auto)

    def _wanted(self, config: RuntimeConfig) -> Wanted:
        name = self._here.resolve(config.model_reference, config.models_dir).display_name
        return wanted_of(config, name, self._options.copies)


def _ignore(_progress: LoadProgress) -> None:
    """Nobody asked for progress."""
