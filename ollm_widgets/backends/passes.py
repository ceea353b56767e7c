"""The passes of the optimized backend: what each does to a loaded model, and whether it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ollm_widgets.backends.memory import is_allocation_failure
from ollm_widgets.errors import OllmError, SpecializationApplicationError

if TYPE_CHECKING:
    from ollm_widgets.kv.attention.room import KVTiers
    from ollm_widgets.planning.parts import KVPlan
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.weights.engine import WeightEngine
    from ollm_widgets.weights.steps.capture import CapturedSteps


@dataclass(slots=True)
class PassContext:
    """What a pass may look at and change.

    Parameters
    ----------
    plan
        What was planned.
    engine
        The model with its weights in their tiers.
    steps
        Set by the pass that makes them.
    """

    plan: RuntimePlan
    engine: WeightEngine
    steps: CapturedSteps | None = None


@dataclass(frozen=True, slots=True)
class AppliedPasses:
    """What came of the planned passes.

    Parameters
    ----------
    pass_ids
        Those that applied, in the plan's order.
    reasons
        Why the others did not, by id.
    steps
        Runs decode steps; None without captured steps.
    """

    pass_ids: tuple[str, ...]
    reasons: dict[str, str] = field(default_factory=dict)
    steps: CapturedSteps | None = None


# Applies a pass; returns why it did not apply, or nothing.
ApplyPass = Callable[[PassContext], str]


def apply_passes(plan: RuntimePlan, engine: WeightEngine) -> AppliedPasses:
    """Apply the planned passes in order; what did not apply is said, not hidden.

    Raises
    ------
    SpecializationApplicationError
        If a pass fails, or the plan names one that does not exist.
    """
    context = PassContext(plan, engine)
    applied: list[str] = []
    reasons: dict[str, str] = {}
    for pass_id in plan.specialization_pass_ids:
        try:
            reason = PASSES[pass_id](context)
        except Exception as error:
            if isinstance(error, OllmError) or is_allocation_failure(error):
                raise
            raise SpecializationApplicationError(
                f"The pass {pass_id} failed: {type(error).__name__}: {error}",
                planned=plan.specialization_pass_ids,
                applied=applied,
                failed=(pass_id,),
            ) from error
        if reason:
            reasons[pass_id] = reason
        else:
            applied.append(pass_id)
    return AppliedPasses(tuple(applied), reasons, context.steps)


def confirmed(applied: AppliedPasses) -> AppliedPasses:
    """Take back what warming up has shown not to apply."""
    steps = applied.steps
    if steps is None:
        return applied
    refused = {}
    if steps.attention_refusal:
        refused["attention-replacement"] = _own_attention(steps.attention_refusal)
    if steps.refusal:
        why = f"Steps run one operation at a time: {steps.refusal}."
        refused |= dict.fromkeys(("captured-steps", "attention-replacement"), why)
    kept = tuple(pass_id for pass_id in applied.pass_ids if pass_id not in refused)
    taken_back = {name: why for name, why in refused.items() if name in applied.pass_ids}
    return AppliedPasses(kept, applied.reasons | taken_back, steps)


def _layers_in(tier: str, words: str) -> ApplyPass:
    def check(context: PassContext) -> str:
        found = tier in context.engine.placement.tiers
        return "" if found else f"No layer is {words}."

    return check


def _full_residency(context: PassContext) -> str:
    return "" if context.engine.arranged.resident else "Some layers are not on the device."


def _packing(context: PassContext) -> str:
    return "" if context.engine.packed_layers else "Packing would not make its layers smaller."


def _experts(context: PassContext) -> str:
    found = context.engine.arranged.experts
    return "" if found else "No layer that streams has experts of its own."


def _prefill(context: PassContext) -> str:
    rows = context.plan.streaming.prefill_chunk_tokens
    if rows is None:
        return "Prompts of the planned length pass a layer at once."
    context.engine.chunk_prompts(rows)
    return ""


def _kv_tiers(kv: KVPlan) -> KVTiers | None:
    """What steps may take for keys and values; None where all of them stay on the device."""
    from ollm_widgets.kv.attention.room import KVTiers
    from ollm_widgets.kv.budget import KVBudget
    from ollm_widgets.planning.kv_presets import preset_of

    preset = preset_of(kv.strategy)
    if not preset.uses_disk:
        return None
    # Without a host tier steps serve what fits the device; anything longer goes to the disk.
    host_bytes = kv.host_budget_bytes if "host" in preset.tiers else 0
    codec = "full" if preset.codec == "full" else kv.codec or "int8"
    return KVTiers(KVBudget(kv.device_budget_bytes, host_bytes), codec)


def _captured(context: PassContext) -> str:
    from ollm_widgets.weights.steps.recorded import RecordedSteps

    engine = context.engine
    if engine.device.type != "cuda":
        return "Steps are captured on CUDA devices only."
    if not engine.arranged.capturable:
        return "Layers are read from disk in each pass, which no graph can hold."
    context.steps = RecordedSteps(
        engine.model,
        engine.device,
        recorder=lambda: engine.recorder,
        planned_tokens=context.plan.kv.context_tokens,
        before_step=engine.fork,
        after_step=engine.join,
        settle=engine.settle,
        forget=engine.forget,
        fuse=True,
        tiers=_kv_tiers(context.plan.kv),
    )
    engine.before_move(context.steps.close)
    return ""


def _attention(context: PassContext) -> str:
    if context.steps is None:
        return "Only captured steps attend by kernels of ours."
    why = context.steps.attention_obstacle()
    return _own_attention(why) if why else ""


def _own_attention(why: str) -> str:
    return f"The model's own attention is captured: {why}."


def _language_part(context: PassContext) -> str:
    config = context.engine.model.config
    nested = config.get_text_config(decoder=True) is not config
    return "" if nested else "The model is no shell around a language model."


PASSES: dict[str, ApplyPass] = {
    "full-residency": _full_residency,
    "disk-cache": _layers_in("disk", "on disk"),
    "cpu-offload": _layers_in("host", "in host memory"),
    "gpu-offload": _layers_in("accelerator", "on the accelerator"),
    "lossless-packing": _packing,
    "moe-routing": _experts,
    "layer-major-prefill": _prefill,
    "mlp-chunking": _prefill,
    "captured-steps": _captured,
    "attention-replacement": _attention,
    "multimodal-shell": _language_part,
}
