"""Plans for the cluster: on which node a model would go, and why; starts nothing."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from ollm_widgets.cluster.books.wording import nobody_runs
from ollm_widgets.cluster.client import plans
from ollm_widgets.cluster.client.calls import Calls
from ollm_widgets.cluster.client.deploying import NoHostsYet
from ollm_widgets.cluster.client.link import Link
from ollm_widgets.cluster.client.troubles import not_installed
from ollm_widgets.cluster.client.wanting import on_node
from ollm_widgets.cluster.messages import Wanted
from ollm_widgets.errors import OllmError

if TYPE_CHECKING:
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.residency.elsewhere import Loader

# A plan is asked for with each request, and while a person turns a knob.
_FRESH_S = 1.5
_MOST_KEPT = 64
# Longer than most take to connect; who shows a plan of one that takes longer plans it again.
_CONNECTS_S = 6.0

_STARTS_HERE = "Ray starts on this machine with the first load."
_STARTS_HOSTS = (
    "No node has a host for models yet: the first load starts them, and then says which it is."
)
_CONNECTING = "The cluster is still being connected: a load waits for it."


class Outlook:
    """Plans for configs that go to the cluster.

    Parameters
    ----------
    calls
        To the registry.
    here
        Plans for this machine.
    """

    def __init__(self, calls: Calls, here: Loader) -> None:
        self._calls = calls
        self._here = here
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, RuntimePlan]] = OrderedDict()

    def plan(self, config: RuntimeConfig, wanted: Wanted) -> RuntimePlan:
        """Plan a model for the node where it would go.

        A cluster that cannot be reached gives a plan that does not run, and says why.
        """
        now = time.monotonic()
        # Configs that want the same of a node can still be written in two ways.
        name = f"{wanted.key} {config.device}"
        with self._lock:
            kept = self._kept.get(name)
        if kept is not None and now - kept[0] < _FRESH_S and kept[1].config == config:
            return kept[1]
        plan = self._made(config, wanted)
        if plan.provisional:
            return plan
        with self._lock:
            self._kept[name] = (time.monotonic(), plan)
            self._kept.move_to_end(name)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return plan

    def forget(self) -> None:
        """Plan anew from here on, since something was loaded."""
        with self._lock:
            self._kept.clear()

    def _made(self, config: RuntimeConfig, wanted: Wanted) -> RuntimePlan:
        connection = self._calls.connection
        if connection.link is None and importlib.util.find_spec("ray") is None:
            return plans.unknown(self._base(config), config, str(not_installed()), runs=False)
        if connection.link is None and connection.options.is_local:
            return plans.on(
                self._here.plan(on_node(config)), config, plans.THIS_MACHINE, _STARTS_HERE
            )
        try:
            link = connection.open(timeout_s=_CONNECTS_S, starts=False)
            return self._offered(link, config, wanted)
        except NoHostsYet:
            return plans.unknown(self._base(config), config, _STARTS_HOSTS, runs=True)
        except TimeoutError:
            plan = plans.unknown(self._base(config), config, _CONNECTING, runs=True)
            return plan.refine(provisional=True)
        except OllmError as error:
            return plans.unknown(self._base(config), config, str(error), runs=False)

    def _offered(self, link: Link, config: RuntimeConfig, wanted: Wanted) -> RuntimePlan:
        offers = self._calls.offers(link, wanted)
        if not offers:
            return plans.unknown(self._base(config), config, _STARTS_HOSTS, runs=True)
        _host, node, offer, why = offers[0]
        if offer.runs or len(offers) == 1:
            return plans.offered(offer, config, node, why)
        refusals = [(node, offer.refusal) for _, node, offer, _ in offers]
        return plans.offered(offer, config, node, why).refine(
            reason=nobody_runs(wanted.name, refusals)
        )

    def _base(self, config: RuntimeConfig) -> RuntimePlan:
        return self._here.plan(on_node(config))
