"""Sets of choices that go by a name, for what people most often want of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from ollm_widgets.errors import ConfigError
from ollm_widgets.session.edits import Value, reason_of, without_choices

if TYPE_CHECKING:
    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan

# What a preset decides: what it does not choose goes back to automatic. Backend, device, dtype
# and lifecycle stay as they are, being about something else.
_DECIDED = (
    "kv_cache_strategy",
    "kv_cache_window_tokens",
    "kv_cache_sink_tokens",
    "kv_cache_codec",
    "kv_cache_memory_budget",
    "strategy_selector_profile",
    "offload_gpu_layers",
    "offload_cpu_layers",
    "offload_cpu_policy",
    "gpu_memory_budget",
    "cpu_memory_budget",
    "context_tokens",
    "dense_projection_chunk_rows",
)


@dataclass(frozen=True, slots=True)
class PlanPreset:
    """A set of choices.

    Parameters
    ----------
    id, title, help
        Its id, its name for people, and what it does in a sentence.
    choices
        Fields of a `RuntimeConfig` and their values.
    whole_context
        Plan for all tokens that the model takes.
    needs_gpu
        Without a GPU it would change nothing.
    """

    id: str
    title: str
    help: str
    choices: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    whole_context: bool = False
    needs_gpu: bool = False


PRESETS: tuple[PlanPreset, ...] = (
    PlanPreset(
        "fastest",
        "Fastest",
        "All memory may be used, and the KV cache stays next to the weights while it fits.",
        MappingProxyType({"strategy_selector_profile": "latency"}),
    ),
    PlanPreset(
        "least-gpu-memory",
        "Least GPU memory",
        "No layer stays on the GPU: all pass through it, a prompt takes 256 rows at a time, and "
        "the KV cache keeps 256 MiB there.",
        MappingProxyType(
            {
                "offload_gpu_layers": 0,
                "dense_projection_chunk_rows": 256,
                "kv_cache_strategy": "paged",
                "kv_cache_memory_budget": "256MiB",
            }
        ),
        needs_gpu=True,
    ),
    PlanPreset(
        "longest-context",
        "Longest context",
        "All tokens that the model takes; what of the KV cache does not fit into memory goes to "
        "disk, the cold part of a text in 8 bits.",
        MappingProxyType({"strategy_selector_profile": "capacity"}),
        whole_context=True,
    ),
    PlanPreset(
        "small-machine",
        "Small machine",
        "At most 4 GiB of GPU memory and 4 GiB of RAM are used, for 2,048 tokens of context.",
        MappingProxyType(
            {
                "gpu_memory_budget": "4GiB",
                "cpu_memory_budget": "4GiB",
                "context_tokens": 2048,
            }
        ),
    ),
)


def preset_changes(preset: PlanPreset, plan: RuntimePlan | None) -> dict[str, Value]:
    """Return what a preset changes in a config, for the model of `plan`.

    Raises
    ------
    ConfigError
        If the model or the machine rules it out.
    """
    changes = without_choices(_DECIDED) | dict(preset.choices)
    if preset.needs_gpu and (plan is None or plan.memory.tier("gpu") is None):
        raise ConfigError("preset", "this plan runs without a GPU.", hint="Choose another preset.")
    context = plan.resolved_model.capabilities.context_length if plan is not None else None
    if context is not None:
        if preset.whole_context:
            changes["context_tokens"] = context
        asked = preset.choices.get("context_tokens")
        if isinstance(asked, int):
            changes["context_tokens"] = min(asked, context)
    elif preset.whole_context:
        raise ConfigError(
            "preset", "the model does not say how long its context is.", hint="Type the tokens."
        )
    return changes


def preset_result(
    preset: PlanPreset, config: RuntimeConfig, plan: RuntimePlan | None
) -> RuntimeConfig:
    """Return `config` as the preset makes it.

    Raises
    ------
    ConfigError
        If the model, the machine or the rest of the config rules it out.
    """
    changed = config.copy(**preset_changes(preset, plan))
    changed.validate()
    return changed


def preset_obstacle(preset: PlanPreset, config: RuntimeConfig, plan: RuntimePlan | None) -> str:
    """Say why a preset cannot be applied; empty if it can."""
    try:
        preset_result(preset, config, plan)
    except ConfigError as error:
        return reason_of(error)
    return ""


def preset_of(preset_id: str) -> PlanPreset:
    """Return the preset of that id.

    Raises
    ------
    ConfigError
        If there is none.
    """
    found = next((preset for preset in PRESETS if preset.id == preset_id), None)
    if found is None:
        known = ", ".join(preset.id for preset in PRESETS)
        raise ConfigError("preset", f"{preset_id!r} is unknown.", hint=f"Choose {known}.")
    return found
