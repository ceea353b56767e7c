"""What somebody asks of a manager."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.planning.config import RuntimeConfig
from ollm_widgets.runtime.residency.identity import asked_keys, planned_key
from ollm_widgets.runtime.residency.places import added
from ollm_widgets.runtime.residency.shared import SharedLedger

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.residency.elsewhere import Loader


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for.

    Parameters
    ----------
    config, plan
        How it shall run, and how it would.
    loader
        Loads it.
    asked, keys
        What the same request has again; and with it, what equal plans have.
    insists
        Whether it is tried again although it failed a moment ago.
    anyway
        Whether it is loaded although room could not be made.
    """

    config: RuntimeConfig
    plan: RuntimePlan
    loader: Loader
    asked: frozenset[Hashable]
    keys: frozenset[Hashable]
    insists: bool = False
    anyway: bool = False

    @property
    def name(self) -> str:
        """What a person calls the model."""
        return self.plan.resolved_model.display_name

    @property
    def elsewhere(self) -> bool:
        """Whether it runs on a node of a cluster."""
        return bool(self.plan.node)


def request_for(
    config: RuntimeConfig,
    loader: Loader,
    shared: SharedLedger,
    *,
    insists: bool = False,
    anyway: bool = False,
) -> Request:
    """Find out what is asked for.

    Equal plans share a runtime. What is in memory must not make the plan another one, so those of
    the same weights count as gone, as idle ones do.

    Raises
    ------
    ConfigError
        If a field of `config` holds a value that cannot work.
    TypeError
        If it is something else, such as the name of a model.
    """
    if not isinstance(config, RuntimeConfig):
        raise TypeError(f"A RuntimeConfig is needed: RuntimeConfig({config!r}).")
    plan = loader.plan(config)
    asked = asked_keys(plan)
    with shared.open() as ledger:
        residents = list(ledger.staying())
        known = any(not one.keys.isdisjoint(asked) for one in residents)
        gone = [
            one.held
            for one in residents
            if one.runtime.model_path == plan.model_path or ledger.is_free(one)
        ]
    more_bytes = added(gone)
    if not known and not plan.node and any(more_bytes.values()):
        plan = loader.plan_with(config, more_bytes)
    keys = asked | {planned_key(plan)}
    return Request(config, plan, loader, asked, keys, insists, anyway)


def plan_for(config: RuntimeConfig, loader: Loader, shared: SharedLedger) -> RuntimePlan:
    """Plan what a request would get: what is in memory for it, else as if idle ones had left.

    Raises
    ------
    ConfigError
        If a field of `config` holds a value that cannot work.
    """
    request = request_for(config, loader, shared)
    with shared.open() as ledger:
        residents = list(ledger.staying())
        idle = [one for one in residents if ledger.is_free(one)]
    for resident in residents:
        if not resident.keys.isdisjoint(request.keys) and not resident.runtime.closed:
            return resident.runtime.plan
    if request.elsewhere or len(idle) == len(residents):
        return request.plan
    more_bytes = added(one.held for one in idle)
    return loader.plan_with(config, more_bytes) if any(more_bytes.values()) else loader.plan(config)


def bytes_free_for(plan: RuntimePlan, shared: SharedLedger) -> Mapping[str, int]:
    """Say by place what counts as free for a plan besides: what idle ones hold, and it itself.

    Of a node's memory nothing is known here.
    """
    if plan.node:
        return {}
    with shared.open() as ledger:
        return added(
            one.held for one in ledger.staying() if ledger.is_free(one) or one.runtime.plan is plan
        )
