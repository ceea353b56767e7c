"""Why each part of a plan is what it is, in a sentence; empty where there is nothing to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ollm_widgets.planning.ids import KVRule, LayerTier
from ollm_widgets.planning.kv_presets import preset_of
from ollm_widgets.planning.parts import listed
from ollm_widgets.render.units import format_seconds

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan

_RULES: dict[KVRule, str] = {
    "explicit": "because it was asked for",
    "bounded-window": "because a bounded window wins over all other choices",
    "no-disk-cache": "because nothing here can keep keys and values on disk",
    "latency": "because the shortest answer time was asked for",
    "capacity": "because the longest history was asked for",
    "balanced": "because nothing else was asked for",
}
_PASSES = {
    "full-residency": "all layers stay on the device that computes",
    "gpu-offload": "some layers stay on the accelerator",
    "cpu-offload": "layers wait in RAM",
    "disk-cache": "layers are read from disk in each pass",
    "lossless-packing": "layers in RAM are packed without loss",
    "moe-routing": "only the experts that a token needs move",
    "layer-major-prefill": "a long prompt passes layer by layer",
    "mlp-chunking": "a long prompt passes in chunks",
    "captured-steps": "the steps of an answer are recorded once and replayed",
    "attention-replacement": "attention runs in our own kernels",
    "multimodal-shell": "what is around the language part stays on the device that computes",
}


def why_backend(plan: RuntimePlan) -> str:
    """Say why this backend: asked for, matching, or standing in for another."""
    if plan.backend_id is None:
        return ""
    if plan.fallback_reason:
        return f"{plan.backend_id} took over: {_sentence(plan.fallback_reason)}"
    if plan.config.backend is not None:
        return f"{plan.backend_id} was asked for."
    said = next((each for each in plan.details if each.startswith("optimized-native was not")), "")
    if said or plan.backend_id == "optimized-native":
        return said or "optimized-native comes first where it can run a model, and it can."
    return f"{plan.backend_id} runs what optimized-native does not."


def node_in_words(plan: RuntimePlan) -> str:
    """Name the node of a cluster, and why it: ``"10.0.0.2: It has the most room."``."""
    if _names_its_node(plan):
        return _sentence(plan.node_reason)
    return f"{plan.node}: {_sentence(plan.node_reason)}" if plan.node_reason else plan.node


def why_node(plan: RuntimePlan) -> str:
    """Say on which node of a cluster it runs, and why; nothing of this machine."""
    if not plan.node_reason:
        return ""
    if _names_its_node(plan):
        return _sentence(plan.node_reason)
    runs = "is" if plan.executable else "would be"
    return f"The node of the cluster {runs} {plan.node}. {_sentence(plan.node_reason)}"


def _names_its_node(plan: RuntimePlan) -> bool:
    """Whether the reason says by itself which node it is."""
    return f"node {plan.node} ".lower() in plan.node_reason.lower()


def why_device(plan: RuntimePlan) -> str:
    """Say why it runs there."""
    if plan.config.device not in ("auto", "ray"):
        return f"The device {plan.config.device} was asked for."
    if plan.memory.tier("gpu") is None:
        where = "That node" if plan.node else "This machine"
        return f"{where} has no accelerator to run it on."
    if len(plan.devices) > 1:
        return "One accelerator alone cannot hold it."
    if plan.device != "cpu":
        return "An accelerator comes before the CPU, and the one with the most room first."
    return next((each for each in plan.details if " is too small: " in each), "")


def why_dtype(plan: RuntimePlan) -> str:
    """Say why it computes in that number format."""
    if plan.config.dtype != "auto":
        return f"The number format {plan.dtype} was asked for."
    if said := next((each for each in plan.details if f"it runs in {plan.dtype}" in each), ""):
        return said
    weights = plan.resolved_model.weights
    stored = weights.dtype if weights is not None else plan.resolved_model.capabilities.dtype
    if stored == plan.dtype:
        return f"Its weights are stored in {stored}."
    if plan.device == "cpu" and plan.dtype == "float32":
        return "This CPU computes faster in float32 than in 16 bits."
    return ""


def why_layers(plan: RuntimePlan) -> str:
    """Say why the layers are where they are; nothing of a plan that does not run."""
    config, placement = plan.config, plan.placement
    if not placement.tiers or not (plan.executable or plan.needs_files):
        return ""
    asked = [
        f"{name}={count}"
        for name, count in (
            ("offload_gpu_layers", config.offload_gpu_layers),
            ("offload_cpu_layers", config.offload_cpu_layers),
        )
        if count is not None
    ]
    if asked:
        return f"{listed(asked)} {'was' if len(asked) == 1 else 'were'} asked for."
    own = own_tier(plan)
    kept = placement.tiers.count(own)
    if kept == len(placement.tiers):
        return "All of them fit, and nothing is faster."
    tier = plan.memory.tier("ram" if own == "host" else "gpu")
    budget = config.cpu_memory_budget if own == "host" else config.gpu_memory_budget
    room = "" if budget is None else f" within the budget of {budget}"
    where = f"{tier.title if tier is not None else plan.device}{room}"
    return f"Not all of them fit into {where}: of what does, this is the fastest."


def why_kv(plan: RuntimePlan) -> str:
    """Say which rule chose the KV strategy, and what it found."""
    return f"{rule_in_words(plan.kv.rule).capitalize()} (rule {plan.kv.rule}): {plan.kv.why}"


def why_speed(plan: RuntimePlan) -> str:
    """Name what bounds the speed, with its seconds a token, or why none is predicted."""
    speed = plan.speed
    if speed is None:
        return next((each for each in plan.details if each.startswith("Its speed is not")), "")
    if not speed.bound_by:
        return speed.why
    slowest = max(part.seconds for part in speed.token_parts)
    return f"What takes longest is {speed.bound_by}: {step_in_words(slowest)} a token."


def why_passes(plan: RuntimePlan) -> str:
    """Say what optimized-native does with the model, or why it does nothing."""
    why_not = plan.capabilities.reason_for("supports_specialization")
    if why_not:
        return _sentence(why_not)
    return passes_in_words(passes_of(plan))


def passes_of(plan: RuntimePlan) -> tuple[str, ...]:
    """Return the ids of the passes that applied, or of those that will."""
    return plan.applied_specialization_pass_ids or plan.specialization_pass_ids


def passes_in_words(ids: Sequence[str]) -> str:
    """Say what passes do, each with its id, as a sentence."""
    done = listed([f"{_PASSES[each]} ({each})" if each in _PASSES else each for each in ids])
    return f"{done[:1].upper()}{done[1:]}."


def rule_in_words(rule: KVRule) -> str:
    """Say a rule that chooses a KV strategy as a clause."""
    return _RULES[rule]


def strategy_in_words(plan: RuntimePlan) -> str:
    """Name the KV strategy and what it does: ``"resident: everything next to the weights..."``."""
    text = preset_of(plan.kv.strategy).help
    return f"{plan.kv.strategy} ({text[:1].lower()}{text[1:].rstrip('.')})"


def own_tier(plan: RuntimePlan) -> LayerTier:
    """Return the tier whose layers need not move: that of the device that computes."""
    return "host" if plan.device == "cpu" else "accelerator"


def rate_in_words(tokens_per_s: float) -> str:
    """Write tokens per second with three digits: ``"0.306"``, ``"22.4"``, ``"1,250"``."""
    return f"{float(f'{tokens_per_s:.3g}'):,g}"


def step_in_words(seconds: float) -> str:
    """Write the seconds of one token with three digits below a second: ``"146 ms"``."""
    return f"{float(f'{1000 * seconds:.3g}'):g} ms" if seconds < 1 else format_seconds(seconds)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
