"""A model in the memory of another machine: what it is, where, and what it holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ollm_widgets.cluster.client.calls import Place
from ollm_widgets.cluster.client.errand import Errands
from ollm_widgets.cluster.client.plans import on
from ollm_widgets.cluster.far.card import card_of
from ollm_widgets.cluster.far.figures import Figures
from ollm_widgets.cluster.far.outbox import Outbox
from ollm_widgets.cluster.far.stake import Stake
from ollm_widgets.cluster.messages import Described, Wanted
from ollm_widgets.errors import ConfigError, RuntimeClosedError
from ollm_widgets.kv.stats import KVStats
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.runtime.memory import MemoryUse
from ollm_widgets.runtime.predicted_and_measured import TruthReport

if TYPE_CHECKING:
    from ollm_widgets.backends.base import ProgressSink
    from ollm_widgets.kv.recommending import KVRecommendation
    from ollm_widgets.models.capabilities import CapabilityProfile, Modality
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.render.card import Card
    from ollm_widgets.runtime.chat_traits import ChatTraits
    from ollm_widgets.runtime.completion import Completion
    from ollm_widgets.runtime.trace import Trace
    from ollm_widgets.runtime.turns import QueuedRequest

_FIGURES_S = 2.0


class FarModel(Renderable):
    """A loaded model on a node of the cluster.

    What it is and holds is as its host said last, and never waited for.

    Parameters
    ----------
    errands
        Who carries requests out.
    wanted
        What it is known by.
    config
        As the client asked.
    place
        Where it was loaded, or found.
    described
        What was loaded there.
    """

    last_completion: Completion | None = None

    def __init__(
        self,
        errands: Errands,
        wanted: Wanted,
        config: RuntimeConfig,
        place: Place,
        described: Described,
    ) -> None:
        self.resolved_model: ResolvedModel = described.resolved_model
        self.model_path = None
        self._errands = errands
        self._wanted = wanted
        self._asked = config.copy()
        self._described = described
        self._place = place
        self._outbox = Outbox(described.resolved_model.display_name)
        self._figures = Figures(errands.calls.post, wanted.key, place)
        self._figures.wait(_FIGURES_S)
        self._stake = Stake(errands.calls, wanted.key, self._outbox)
        self._stake.follow(self)
        self._closed_why = ""
        self._made: tuple[RuntimePlan, Place, RuntimePlan] | None = None

    # ------------------------------------------------------------------ what it is

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.resolved_model.display_name

    @property
    def node(self) -> str:
        """The node that answered last, or has loaded it."""
        return self._place.route.node

    @property
    def config(self) -> RuntimeConfig:
        """What was asked for, with every automatic choice filled in."""
        asked = self._asked
        return self._described.config.copy(
            model_reference=asked.model_reference,
            device=asked.device,
            models_dir=asked.models_dir,
            adapter_dir=asked.adapter_dir,
            cache_dir=asked.cache_dir,
        )

    @property
    def plan(self) -> RuntimePlan:
        """How it runs on the node that answered last."""
        plan, place = self._figures.plan or self._described.plan, self._place
        made = self._made
        if made is None or made[0] is not plan or made[1] is not place:
            # Who draws it tells plans apart by identity.
            seen = on(plan, self._asked, place.route.node, place.route.why)
            self._made = made = (plan, place, seen)
        return made[2]

    @property
    def capabilities(self) -> CapabilityProfile:
        """What it can do, in agreement with the plan as applied."""
        plan = self.plan
        return replace(
            plan.capabilities,
            supports_disk_cache=plan.supports_disk_cache,
            supports_specialization=plan.specialization_applied,
        )

    @property
    def accepts(self) -> tuple[Modality, ...]:
        """What a message may hold."""
        return self._described.accepts

    @property
    def chat_traits(self) -> ChatTraits:
        """What its files say of talking to it."""
        self._open()
        return self._described.chat

    @property
    def untraceable(self) -> str:
        """Why `trace` cannot follow its layers."""
        return f"Answers on node {self.node} are not traced."

    @property
    def closed(self) -> bool:
        """Whether it was closed; its model may be in memory for others."""
        return self._stake.closed

    # ------------------------------------------------------------------ who asks it

    @property
    def busy(self) -> bool:
        """Whether a request of this process runs or waits."""
        return self._outbox.busy

    @property
    def queue(self) -> tuple[QueuedRequest, ...]:
        """The requests of this process; their positions count those of others too."""
        return self._outbox.queue

    def watch_activity(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback` with True when the first request comes, with False when the last ends.

        Returns
        -------
        callable
            Ends it; calling it twice is harmless.
        """
        return self._outbox.watch(callback)

    def cancel_running(self) -> bool:
        """End the request that came first, as its caller could; False where there is none."""
        return self._outbox.cancel_running()

    # ------------------------------------------------------------------ what it holds

    def memory(self) -> MemoryUse:
        """Say what its weights and caches hold on its node.

        Once closed, what stays there for others.
        """
        if not self.closed:
            self._figures.look()
        elif not self._stake.others:
            return MemoryUse()
        return self._figures.memory

    def kv_stats(self) -> KVStats:
        """Say what its KV cache holds on its node, and what it has moved."""
        if self.closed:
            return KVStats()
        self._figures.look()
        return self._figures.kv_stats

    def catch_up(self) -> None:
        """Ask what it holds now, and wait a moment for the answer."""
        if not self.closed:
            self._figures.wait(_FIGURES_S)

    def kv_recommendation(self) -> KVRecommendation | None:
        """Say how the KV cache had better be kept: that is seen to on its node."""
        return None

    @property
    def truth(self) -> TruthReport:
        """What the plan predicted, beside what was measured on its node."""
        if not self.closed:
            self._figures.look()
        return self._figures.truth or TruthReport(self.name)

    def set_pinned(self, pinned: bool) -> None:
        """Have the cluster never evict it, or allow that again.

        Raises
        ------
        ClusterUnavailableError
            If the cluster cannot be reached.
        """
        self._open()
        self._errands.calls.pin(self._wanted.key, pinned)

    def card(self) -> Card:
        """Draw it: what is loaded, where, and what it holds."""
        return card_of(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"on node {self.node}"
        return f"<{type(self).__name__} {self.name}: {state}>"

    # ------------------------------------------------------------------ what stays there

    @property
    def can_demote(self) -> bool:
        """Its host decides by itself what goes to host memory."""
        return False

    @property
    def demoted(self) -> bool:
        """Whether its next use brings it back from there, which its host sees to."""
        return False

    def demote(self, cancel: threading.Event | None = None) -> None:
        """Refuse: its host decides."""
        self._leave_it_there("demote")

    def restore(
        self, progress: ProgressSink | None = None, cancel: threading.Event | None = None
    ) -> None:
        """Refuse: its host decides."""
        self._leave_it_there("restore")

    def release_host_copy(self) -> None:
        """Do nothing: there is none in this machine's memory."""

    def trace(self) -> AbstractContextManager[Trace]:
        """Refuse: its layers are on another machine."""
        self._refuse("trace")

    @property
    def model(self) -> Any:
        """Refuse: the model is in the memory of another machine."""
        self._refuse("model")

    @property
    def tokenizer(self) -> Any:
        """Refuse: it is on another machine."""
        self._refuse("tokenizer")

    @property
    def processor(self) -> Any:
        """Refuse: it is on another machine."""
        self._refuse("processor")

    def compare_kv(self, *_args: object, **_options: object) -> NoReturn:
        """Refuse: caches do not cross."""
        self._refuse("compare_kv")

    def rebalance(self, *_args: object, **_options: object) -> NoReturn:
        """Refuse: its layers are on another machine."""
        self._refuse("rebalance")

    def get_or_create_kv_cache(self, *_args: object, **_options: object) -> NoReturn:
        """Refuse: caches do not cross."""
        self._refuse("get_or_create_kv_cache")

    def _leave_it_there(self, what: str) -> NoReturn:
        raise ConfigError(
            what,
            f"{self.name} is on node {self.node} of the cluster, which decides by itself what "
            "goes to its RAM.",
        )

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            what,
            f"{self.name} is on node {self.node} of the cluster, and this needs the model itself.",
            hint="Load it on this machine, with device='auto' and no cluster.",
        )

    # ------------------------------------------------------------------ its end

    def close(self, why: str = "") -> None:
        """Cancel what runs and give it back; calling it again does nothing.

        Nodes unload what no other notebook uses.

        Parameters
        ----------
        why
            Told to who asks it from then on: ``" for gamma"`` goes on "alpha was closed".
        """
        if not self.closed:
            self._closed_why = why
        self._stake.close()

    def close_if_idle(self, why: str = "") -> bool:
        """Close, unless a request runs or waits; whether it is closed. See `close`."""
        if not self._outbox.shut_if_idle():
            return False
        self.close(why)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # ------------------------------------------------------------------ inside

    def _open(self) -> None:
        if self.closed:
            raise RuntimeClosedError(
                f"{self.name} was closed{self._closed_why}.", hint="Load the model again to use it."
            )

    def _follow(self, place: Place, described: Described | None) -> None:
        """Note where it answers now, and how it was loaded there."""
        known = self._place
        if described is None and place.route.host == known.route.host and place.link is known.link:
            return
        self._place = place
        if described is not None:
            self._described = described
        self._figures.move(place)
