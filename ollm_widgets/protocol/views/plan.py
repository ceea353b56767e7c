"""Region `Plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.snapshot import Figure, MemoryBar, PlanView, Segment
from ollm_widgets.protocol.views.fields import view_fields
from ollm_widgets.render.units import format_memory, format_seconds

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan, TierMemory
    from ollm_widgets.session.session import Session


def view_plan(session: Session) -> PlanView | None:
    """What would run and how; None until a model is chosen."""
    with session.lock:
        if session.config is None:
            return None
        plan = session.plan
        if plan is None:
            return PlanView(
                fields=view_fields(session),
                executable=False,
                headline="No plan" if session.plan_problem else "Planning",
                reason=session.plan_problem,
                bars=(),
                figures=(),
                code="",
            )
        return PlanView(
            fields=view_fields(session),
            executable=(plan.is_executable() or session.can_download) and not session.edit_errors,
            headline=plan.headline(),
            reason=plan.reason,
            bars=tuple(_bar(tier) for tier in plan.memory.tiers),
            figures=_figures(plan),
            notes=(*((session.hub_problem,) if session.hub_problem else ()), *plan.details),
            code=plan.to_code(),
        )


def _bar(tier: TierMemory) -> MemoryBar:
    layers = f"{tier.layer_count} layer{'' if tier.layer_count == 1 else 's'}"
    segments = (
        Segment(kind="used", label="in use", size_bytes=tier.used_by_others_bytes),
        Segment(kind="embeddings", label="embeddings", size_bytes=tier.embeddings_bytes),
        Segment(
            kind="layers", label=layers, size_bytes=tier.layers_bytes, parts=tier.layer_count or 1
        ),
        Segment(kind="staging", label="buffers", size_bytes=tier.staging_bytes),
        Segment(kind="kv", label="KV", size_bytes=tier.kv_bytes),
        Segment(kind="activations", label="work", size_bytes=tier.activations_bytes),
    )
    return MemoryBar(
        place=tier.place,
        label=tier.title,
        capacity_bytes=tier.capacity_bytes,
        segments=tuple(segment for segment in segments if segment.size_bytes),
        text=f"{format_memory(tier.needed_bytes)} of {format_memory(tier.free_bytes)} free",
    )


def _figures(plan: RuntimePlan) -> tuple[Figure, ...]:
    figures: list[Figure] = []
    if plan.speed is not None:
        figures += [
            Figure(
                value=f"{plan.speed.tokens_per_s:.3g}",
                unit="tokens/s",
                explanation=plan.speed.why,
            ),
            Figure(
                value=format_seconds(plan.speed.time_to_first_token_s),
                unit="first token",
                explanation=f"For a prompt of {plan.speed.prompt_tokens:,} tokens.",
            ),
        ]
    if plan.memory.needed_bytes:
        figures.append(Figure(value=format_memory(plan.memory.needed_bytes), unit="memory"))
    if plan.kv.bytes_per_1k_tokens:
        figures.append(
            Figure(
                value=format_memory(plan.kv.bytes_per_1k_tokens),
                unit="KV per 1k tokens",
                explanation=plan.kv.why,
            )
        )
    return tuple(figures)
