"""A cluster of one node, which is this process: real models, that say they are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, cast

from ollm_widgets import ConfigError, LoadedRuntime, RuntimeConfig, RuntimeLoader, RuntimePlan
from ollm_widgets.runtime.interface import Runtime
from ollm_widgets.runtime.residency.elsewhere import Loader

NODE = "10.0.0.2"
_OF_A_RUNTIME = frozenset({*vars(Runtime), *Runtime.__annotations__})


class RuntimeThere:
    """A runtime of which only what a `Runtime` has can be reached: the model itself is not here."""

    model_path = None
    can_demote = False
    untraceable = f"Answers on node {NODE} are not traced."

    def __init__(self, loaded: LoadedRuntime, plan: RuntimePlan) -> None:
        self._loaded = loaded
        self.plan = plan.refine(specialization_applied=loaded.plan.specialization_applied)
        self.config = loaded.config.copy(device=plan.config.device)

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_A_RUNTIME:
            raise AttributeError(f"a runtime on a node has no {name}")
        return getattr(self._loaded, name)

    def trace(self) -> NoReturn:
        raise ConfigError("trace", self.untraceable)


class LoaderOfANode(RuntimeLoader):
    """Plans and loads as on the node; what is not for a cluster goes elsewhere."""

    def __init__(self, here: Loader, cluster: OneNode) -> None:
        super().__init__()
        self._here = here
        self._cluster = cluster

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        if not is_for_a_node(config):
            return self._here.plan(config)
        plan = super().plan(config.copy(device="auto"))
        return plan.refine(
            config=config.copy(),
            node=NODE,
            node_reason="It has the most room.",
            model_path=None,
            provisional=self._cluster.still_connecting(),
        )

    def plan_with(self, config: RuntimeConfig, more_bytes: Mapping[str, int]) -> RuntimePlan:
        if is_for_a_node(config):
            return self.plan(config)
        return self._here.plan_with(config, more_bytes)

    def load(self, config: RuntimeConfig, *rest: Any) -> Runtime:  # type: ignore[override]
        if not is_for_a_node(config):
            return self._here.load(config, *rest)
        loaded = super().load(config.copy(device="auto"), *rest)
        return cast(Runtime, RuntimeThere(loaded, self.plan(config)))


class OneNode:
    """The cluster; `left` counts how often it was left, `looks` those until it is connected."""

    def __init__(self) -> None:
        self.left = 0
        self.looks = 0

    def still_connecting(self) -> bool:
        self.looks = max(self.looks - 1, 0)
        return self.looks > 0

    def over(self, loader: Loader) -> Loader:
        return LoaderOfANode(loader, self)

    def leave(self) -> None:
        self.left += 1


def is_for_a_node(config: RuntimeConfig) -> bool:
    return config.device.startswith("ray")
