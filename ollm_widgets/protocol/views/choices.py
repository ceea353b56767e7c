"""The options of the plan's choice fields, those that cannot be had with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from ollm_widgets.errors import ConfigError
from ollm_widgets.planning.config import DTypeChoice, KVCodecId, OffloadPolicy, SelectorProfile
from ollm_widgets.planning.kv_presets import KV_PRESETS
from ollm_widgets.protocol.snapshot import Choice
from ollm_widgets.session.edits import Value, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.devices import Machine
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.planning.traits import BackendTraits

_PROFILES = {
    "balanced": "In memory where it clearly fits, on disk where not.",
    "latency": "The fastest cache that fits.",
    "capacity": "The cache that holds the most history.",
    "bounded-window": "The last tokens only, so that memory stays bounded.",
}
_POLICIES = {
    "auto": "The planner chooses.",
    "prefix": "The first layers.",
    "suffix": "The last layers.",
    "middle-band": "The layers in the middle.",
}
_NODES = {
    "ray": "A node of the cluster.",
    "ray:cuda": "A node of the cluster that has a GPU.",
    "ray:cpu": "The CPU of a node of the cluster.",
}
_CODECS = {"int8": "8 bits: half of the bytes.", "int4": "4 bits: less than a third of them."}


def ruled_out(config: RuntimeConfig | None, name: str, value: Value) -> str:
    """Say why a value cannot go with the rest of the config; empty if it can."""
    if config is None:
        return ""
    try:
        config.copy(**{name: value}).validate()
    except ConfigError as error:
        return reason_of(error)
    return ""


def backends(config: RuntimeConfig | None, offered: Iterable[BackendTraits]) -> Iterable[Choice]:
    """What may run the model."""
    for traits in offered:
        yield Choice(
            value=traits.backend_id,
            label=traits.backend_id,
            disabled=traits.unavailable or ruled_out(config, "backend", traits.backend_id),
            help=traits.title,
        )


def devices(machine: Machine | None, plan: RuntimePlan | None, cluster: bool) -> Iterable[Choice]:
    """What there is to compute on.

    Parameters
    ----------
    cluster
        Whether there may be other machines.
    """
    yield Choice(value="cpu", label="cpu", help=machine.cpu.title if machine else "")
    found = {device.name: device.title for device in machine.accelerators} if machine else {}
    used = dict.fromkeys(plan.devices if plan is not None and not plan.node else (), "")
    names = {**used, **found}
    names.pop("cpu", None)
    for name, title in names.items():
        yield Choice(value=name, label=name, help=title)
    if machine is not None and not names:
        yield Choice(value="cuda", label="cuda", disabled="This machine has no GPU.")
    asked = plan.config.device if plan is not None else ""
    for name, title in _NODES.items():
        if name == asked or (cluster and name == "ray"):
            yield Choice(value=name, label=name, help=title)


def dtypes() -> Iterable[Choice]:
    """What can be computed in."""
    for dtype in get_args(DTypeChoice):
        if dtype != "auto":
            yield Choice(value=dtype, label=dtype)


def strategies(config: RuntimeConfig | None, traits: BackendTraits | None) -> Iterable[Choice]:
    """How keys and values may be kept."""
    for preset in KV_PRESETS:
        held = traits is None or preset.strategy_id in traits.kv_strategies
        yield Choice(
            value=preset.strategy_id,
            label=preset.strategy_id,
            disabled=ruled_out(config, "kv_cache_strategy", preset.strategy_id)
            if held or traits is None
            else f"{traits.backend_id} cannot hold it.",
            help=preset.help,
        )


def lifecycles(config: RuntimeConfig | None, traits: BackendTraits | None) -> Iterable[Choice]:
    """How long they may be kept."""
    keeps = traits is not None and traits.supports_disk_cache
    yield Choice(
        value="persistent",
        label="persistent",
        disabled=ruled_out(config, "kv_cache_lifecycle", "persistent")
        if keeps
        else "No backend here keeps the cache on disk.",
        help="Found again by a later kernel.",
    )


def codecs(config: RuntimeConfig | None) -> Iterable[Choice]:
    """How their cold part may be kept."""
    for codec in get_args(KVCodecId):
        yield Choice(
            value=codec,
            label=codec,
            disabled=ruled_out(config, "kv_cache_codec", codec),
            help=_CODECS[codec],
        )


def profiles() -> Iterable[Choice]:
    """By what aim a strategy may be chosen; the first one is what applies anyway."""
    for profile in get_args(SelectorProfile)[1:]:
        yield Choice(value=profile, label=profile, help=_PROFILES[profile])


def policies() -> Iterable[Choice]:
    """Which layers may be the ones in RAM; the first one is what applies anyway."""
    for policy in get_args(OffloadPolicy)[1:]:
        yield Choice(value=policy, label=policy, help=_POLICIES[policy])


def passes(config: RuntimeConfig | None) -> Iterable[Choice]:
    """Whether optimized passes may apply; on is what applies anyway."""
    yield Choice(
        value="off",
        label="off",
        disabled=ruled_out(config, "use_specialization", False),
        help="The model runs as transformers has it.",
    )
