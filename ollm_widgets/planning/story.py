"""A plan told in sentences: what runs, where it is, how fast, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.memory_map import TierMemory
from ollm_widgets.planning.parts import listed
from ollm_widgets.planning.reasons import (
    rate_in_words,
    rule_in_words,
    step_in_words,
    strategy_in_words,
    why_backend,
    why_device,
    why_dtype,
    why_layers,
    why_node,
    why_passes,
    why_speed,
)
from ollm_widgets.planning.verdict import verdict_of
from ollm_widgets.render.units import format_memory, format_seconds

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan


def story(plan: RuntimePlan) -> tuple[str, ...]:
    """Tell a plan in paragraphs; what was said once is not said again.

    Of a plan that does not run the first says why and what to do; what follows is how it would
    have been.
    """
    told: list[str] = []
    for sentences in (
        _opening(plan),
        _layers(plan),
        _memory(plan),
        _kv_cache(plan),
        _speed(plan),
        _passes(plan),
        [detail for detail in plan.details if not detail.startswith("KV cache: ")],
    ):
        said = " ".join(told)
        fresh = [text for text in dict.fromkeys(sentences) if text and text not in said]
        if fresh:
            told.append(" ".join(fresh))
    return tuple(told)


def _opening(plan: RuntimePlan) -> list[str]:
    if plan.executable:
        return [plan.reason, *_whys(plan)]
    verdict = verdict_of(plan)
    if verdict.kind == "unsupported" and not plan.resolved_model.is_supported():
        return ["It cannot run.", plan.reason, "Choose another model."]
    if plan.needs_files:
        place = f"{plan.backend_id} on {listed(plan.devices)} in {plan.dtype}"
        return [f"It {verdict.text}." if verdict.runs else "", plan.reason,
                f"Then it runs with {place}.", *_whys(plan)]  # fmt: skip
    title = plan.resolved_model.display_name
    short = f"{title} {verdict.text}." if verdict.kind == "too-large" else ""
    return ["It does not run as asked.", short, plan.reason]


def _whys(plan: RuntimePlan) -> list[str]:
    return [why_node(plan), why_backend(plan), why_device(plan), why_dtype(plan)]


def _layers(plan: RuntimePlan) -> list[str]:
    if not plan.placement.tiers:
        return []
    return [f"Where its layers are: {plan.placement.summary()}.", why_layers(plan)]


def _memory(plan: RuntimePlan) -> list[str]:
    return [_tier(tier) for tier in plan.memory.tiers if tier.needed_bytes]


def _tier(tier: TierMemory) -> str:
    kinds = (
        ("layers", tier.layers_bytes),
        ("embeddings and all else that is no layer", tier.embeddings_bytes),
        ("KV cache", tier.kv_bytes),
        ("intermediate results", tier.activations_bytes),
        ("buffers for layers on their way", tier.staging_bytes),
    )
    parts = ", ".join(f"{name} {format_memory(size)}" for name, size in kinds if size)
    if tier.place == "disk":
        return f"{tier.title}: {parts}."
    free = f"{format_memory(tier.free_bytes)} are free"
    text = f"{tier.title}: {tier.summary()} that may be used, {free} ({parts})."
    return text if tier.fits else f"{text} {format_memory(tier.missing_bytes)} are missing."


def _kv_cache(plan: RuntimePlan) -> list[str]:
    kv = plan.kv
    size = f", {format_memory(kv.total_bytes)} when it is full" if kv.total_bytes else ""
    said = [
        f"The KV cache, for {kv.context_tokens:,} tokens{size}, is {strategy_in_words(plan)}, "
        f"{rule_in_words(kv.rule)} (rule {kv.rule}).",
        kv.why,
    ]
    if kv.sink_tokens:
        said.append(f"Beside them the first {kv.sink_tokens:,} tokens are kept.")
    if kv.codec is not None:
        said.append(f"What is not in use is kept in {kv.codec}.")
    if kv.fallbacks:
        said.append(f"If it cannot be built: {', then '.join(kv.fallbacks)}.")
    return said


def _speed(plan: RuntimePlan) -> list[str]:
    speed = plan.speed
    if speed is None:
        return []
    said = [
        f"It should give about {rate_in_words(speed.tokens_per_s)} tokens/s, "
        f"{step_in_words(speed.seconds_per_token)} each, and the first token of a prompt of "
        f"{speed.prompt_tokens:,} tokens after {format_seconds(speed.time_to_first_token_s)}.",
        why_speed(plan),
        speed.why,
    ]
    if speed.load_s is not None:
        stages = [f"{each.stage.lower()} {format_seconds(each.seconds)}" for each in speed.load]
        said.append(f"To load it: {', '.join(stages)}, {format_seconds(speed.load_s)} in all.")
    count = speed.correction.observations
    if count:
        said.append(f"This is corrected by {count} earlier answer{'s' if count > 1 else ''}.")
    return said


def _passes(plan: RuntimePlan) -> list[str]:
    if plan.backend_id is None:
        return []
    why = why_passes(plan)
    if plan.specialization_state == "fallback":
        return [f"optimized-native could not do its part: {why}"]
    if not plan.specialization_pass_ids:
        return [f"No pass of optimized-native applies: {why}"]
    begins = "does" if plan.specialization_state == "applied" else "will do"
    return [f"What optimized-native {begins} with it: {why[:1].lower()}{why[1:]}"]
