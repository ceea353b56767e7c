"""Region `Plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.reasons import why_node
from ollm_widgets.protocol.snapshot import Change, Figure, PlanView, PresetView
from ollm_widgets.protocol.views.fields import view_fields
from ollm_widgets.protocol.views.speed import view_correction, view_speed, view_times
from ollm_widgets.protocol.views.tiers import view_layers, view_tiers
from ollm_widgets.render.units import format_memory
from ollm_widgets.session.presets import PRESETS, preset_obstacle, preset_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ollm_widgets.planning.config import RuntimeConfig
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.session.session import Session

_NOT_AT_A_GLANCE = frozenset({"Streaming", "KV fallbacks", "Passes", "State of the passes"})


def view_plan(session: Session) -> PlanView | None:
    """What would run and how; None until a model is chosen."""
    with session.lock:
        config, plan = session.config, session.plan
        if config is None:
            return None
        if plan is None:
            return PlanView(
                fields=view_fields(session),
                executable=False,
                headline="No plan" if session.desk.problem else "Planning",
                reason=session.desk.problem,
                bars=(),
                figures=(),
                can_undo=session.desk.editing.can_undo,
                can_redo=session.desk.editing.can_redo,
                planning=not session.desk.problem,
            )
        fields = view_fields(session)
        labels = {field.name: field.label for field in fields}
        backend = session.manager.loader.backends.get(plan.backend_id or "")
        return PlanView(
            fields=fields,
            executable=(plan.is_executable() or session.desk.can_download)
            and not session.desk.errors,
            headline=plan.headline(),
            reason=plan.reason,
            bars=view_tiers(plan.memory),
            figures=_figures(plan),
            notes=(
                *filter(None, (session.desk.hub_problem, why_node(plan))),
                *session.desk.room,
                *plan.details,
            ),
            code=plan.to_code(),
            planning=plan.config != config,
            layers=view_layers(plan, config, backend.traits if backend is not None else None),
            times=view_times(plan.speed),
            correction=view_correction(plan.speed),
            presets=tuple(_presets(config, plan)),
            can_undo=session.desk.editing.can_undo,
            can_redo=session.desk.editing.can_redo,
            changes=tuple(_changes(session.desk.plan_before, plan, labels)),
            story="\n".join(filter(None, (plan.explain(), session.desk.advising.text_for(plan)))),
        )


def _figures(plan: RuntimePlan) -> tuple[Figure, ...]:
    figures = [*view_speed(plan.speed)]
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


def _presets(config: RuntimeConfig, plan: RuntimePlan) -> Iterable[PresetView]:
    for preset in PRESETS:
        obstacle = preset_obstacle(preset, config, plan)
        yield PresetView(
            id=preset.id,
            title=preset.title,
            help=preset.help,
            active=not obstacle and preset_result(preset, config, plan) == config,
            disabled=obstacle,
        )


def _changes(
    before: RuntimePlan | None, plan: RuntimePlan, labels: Mapping[str, str]
) -> Iterable[Change]:
    """What a person sees at a glance; the rest is part of the story."""
    if before is None or before is plan:
        return
    for row in plan.diff(before).rows:
        if row.kind == "config":
            yield Change(term=labels.get(row.field, row.field), before=row.before, after=row.after)
        elif row.field not in _NOT_AT_A_GLANCE:
            yield Change(term=row.field, before=row.before, after=row.after, why=row.why)
