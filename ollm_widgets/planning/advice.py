"""The one change that would make a plan faster, found by planning it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ollm_widgets.planning.footprint import largest
from ollm_widgets.planning.reasons import own_tier, rate_in_words
from ollm_widgets.planning.weights import weight_sizes
from ollm_widgets.render.units import format_memory

if TYPE_CHECKING:
    from ollm_widgets.models.resolved import ResolvedModel
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.devices import Machine
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.planning.selector import BackendSelector

# Predictions are not exact enough to recommend less.
_LEAST_GAIN = 1.1
_STEP_BYTES = 64 * 1024**2
# What a plan is made for when nobody says how much.
_SHORT_CONTEXT = 4096


class Replan(Protocol):
    """Plans a model anew, on this machine or on one with more memory."""

    def __call__(
        self, config: RuntimeConfig, more_gpu_bytes: int = 0, more_ram_bytes: int = 0
    ) -> RuntimePlan:
        """Plan it."""
        ...


@dataclass(frozen=True, slots=True)
class Advice:
    """A change that helps.

    Parameters
    ----------
    text
        The change and what it gives, in a sentence.
    plan
        The plan with it.
    """

    text: str
    plan: RuntimePlan


def replanning(
    selector: BackendSelector, resolved: ResolvedModel, machine: Machine | None = None
) -> Replan:
    """Make what plans `resolved` anew; the machine is looked at once, now if it is not given."""
    from ollm_widgets.planning.devices import probe_machine

    here = machine or probe_machine()

    def replan(
        config: RuntimeConfig, more_gpu_bytes: int = 0, more_ram_bytes: int = 0
    ) -> RuntimePlan:
        return selector.select(resolved, config, _enlarged(here, more_gpu_bytes, more_ram_bytes))

    return replan


def best_change(plan: RuntimePlan, replan: Replan) -> Advice | None:
    """Find the one change that would make a plan fastest, or let it run; None if none would.

    A change of the config is free, so more memory is named only where it gives clearly more. Of
    a plan for another machine nothing is known here.
    """
    if plan.node:
        return None
    least = _speed(plan) * _LEAST_GAIN
    best: Advice | None = None
    for change in (*_config_changes(plan, replan), *_more_memory(plan, replan)):
        if _speed(change.plan) > least:
            best, least = change, _speed(change.plan) * _LEAST_GAIN
    return best


def _speed(plan: RuntimePlan) -> float:
    """Tokens per second; 0 for what does not run."""
    runs = plan.executable or plan.needs_files
    return plan.speed.tokens_per_s if runs and plan.speed is not None else 0.0


def _config_changes(plan: RuntimePlan, replan: Replan) -> Iterator[Advice]:
    """Give up one thing that was asked for, each in turn; the fastest first."""
    config = plan.config
    changes: list[tuple[str, dict[str, object]]] = []
    if config.offload_gpu_layers is not None or config.offload_cpu_layers is not None:
        free: dict[str, object] = {"offload_gpu_layers": None, "offload_cpu_layers": None}
        changes.append(("the layer counts left empty", free))
    for name in ("gpu_memory_budget", "cpu_memory_budget", "kv_cache_memory_budget"):
        if getattr(config, name) is not None:
            changes.append((f"{name} left empty", {name: None}))
    if config.backend is not None or not config.use_specialization:
        anything: dict[str, object] = {"backend": None, "use_specialization": True}
        changes.append(("the choice of a backend left to the planner", anything))
    if config.device != "auto":
        changes.append(("the device left on auto", {"device": "auto"}))
    if config.dtype == "float32":
        changes.append(("dtype left on auto", {"dtype": "auto"}))
    if not config.use_cache:
        changes.append(("use_cache=True", {"use_cache": True}))
    if config.kv_cache_strategy is not None:
        changes.append(("the KV strategy left empty", {"kv_cache_strategy": None}))
    if plan.kv.context_tokens > _SHORT_CONTEXT:
        short: dict[str, object] = {"context_tokens": _SHORT_CONTEXT}
        changes.append((f"a context of {_SHORT_CONTEXT:,} tokens", short))
    found = []
    for what, fields in changes:
        changed = config.copy(**fields)
        found.append(_advice(plan, f"With {what} it would run", replan(changed)))
    yield from sorted(found, key=lambda advice: -_speed(advice.plan))


def _more_memory(plan: RuntimePlan, replan: Replan) -> Iterator[Advice]:
    """Add the least memory with which all layers stay on the device that computes."""
    own, sizes = own_tier(plan), weight_sizes(plan.resolved_model, plan.dtype)
    config = plan.config
    bounded = (
        config.cpu_memory_budget if own == "host" else config.gpu_memory_budget
    ) is not None or (config.offload_gpu_layers, config.offload_cpu_layers) != (None, None)
    if plan.memory.tier("ram" if own == "host" else "gpu") is None:
        return
    away = [index for index, tier in enumerate(plan.placement.tiers) if tier != own]
    if bounded or sizes is None or not away or len(plan.placement.tiers) != len(sizes.layer_bytes):
        return
    with_more = _planner_of_more(plan, replan)
    most_steps = -(-sum(sizes.layer_bytes[index] for index in away) // _STEP_BYTES) + 1

    def falls_short(steps: int) -> bool:
        made = with_more(steps * _STEP_BYTES)
        return not _all_stay(made)

    steps = largest(falls_short, most_steps) + 1
    if steps > most_steps:
        return
    enough = with_more(steps * _STEP_BYTES)
    kind = "RAM" if own == "host" else "GPU memory"
    layers = len(plan.placement.tiers)
    size = format_memory(steps * _STEP_BYTES)
    yield _advice(plan, f"With {size} more {kind} all {layers} layers would stay there", enough)


def _planner_of_more(plan: RuntimePlan, replan: Replan) -> Callable[[int], RuntimePlan]:
    if own_tier(plan) == "host":
        return lambda size_bytes: replan(plan.config, more_ram_bytes=size_bytes)
    return lambda size_bytes: replan(plan.config, more_gpu_bytes=size_bytes)


def _all_stay(plan: RuntimePlan) -> bool:
    own = own_tier(plan)
    return bool(plan.placement.tiers) and all(tier == own for tier in plan.placement.tiers)


def _advice(plan: RuntimePlan, what: str, changed: RuntimePlan) -> Advice:
    now, then = _speed(plan), _speed(changed)
    if not now:
        return Advice(f"{what}: at about {rate_in_words(then)} tokens/s.", changed)
    return Advice(f"{what}: from {rate_in_words(now)} to {rate_in_words(then)} tokens/s.", changed)


def _enlarged(machine: Machine, more_gpu_bytes: int, more_ram_bytes: int) -> Machine:
    return replace(
        machine,
        cpu=replace(
            machine.cpu,
            total_bytes=machine.cpu.total_bytes + more_ram_bytes,
            free_bytes=machine.cpu.free_bytes + more_ram_bytes,
        ),
        accelerators=tuple(
            replace(
                device,
                total_bytes=device.total_bytes + more_gpu_bytes,
                free_bytes=device.free_bytes + more_gpu_bytes,
            )
            for device in machine.accelerators
        ),
        ram_total_bytes=machine.ram_total_bytes + more_ram_bytes,
        ram_free_bytes=machine.ram_free_bytes + more_ram_bytes,
    )
