"""Region `Models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.snapshot import Chip, ModelItem, ModelsView, Tone
from ollm_widgets.render.units import format_bytes, format_count, format_memory

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.session.session import Session
    from ollm_widgets.session.shelf import ListedModel


def view_models(session: Session) -> ModelsView:
    """The models that match the query, those on this machine first."""
    with session.lock:
        browser = session.browser
        return ModelsView(
            query=browser.query,
            items=tuple(_item(model) for model in browser.matching()),
            chosen=session.config.model_reference if session.config else None,
            note=(
                "Type a folder, a GGUF file or a hub id to use a model that is not listed. "
                "Nothing is downloaded to make these verdicts."
            ),
            searching=browser.searching,
        )


def _item(model: ListedModel) -> ModelItem:
    plan = model.plan
    here = model.on_this_machine
    facts: list[str] = []
    if plan is not None:
        profile = plan.resolved_model.capabilities
        if profile.parameters:
            facts.append(f"{format_count(profile.parameters)} parameters")
        if profile.bytes_on_disk:
            facts.append(format_bytes(profile.bytes_on_disk))
        facts.extend([", ".join(profile.modalities)] if facts else [])
        if plan.needs_files:
            facts.append("not downloaded")
    return ModelItem(
        reference=model.reference,
        name=model.name,
        group="On this machine" if here else "In the catalog",
        facts=", ".join(facts),
        verdict=_verdict(plan),
        available=plan is not None and plan.is_executable(),
        reason=_short_reason(model),
    )


def _verdict(plan: RuntimePlan | None) -> Chip:
    if plan is None or not plan.resolved_model.is_supported():
        return Chip(text="cannot run", tone="no")
    if not plan.memory.fits:
        return Chip(text="too large", tone="no")
    tone: Tone = "ok" if plan.is_executable() else "warn"
    if plan.speed is not None:
        return Chip(text=f"{plan.speed.tokens_per_s:.3g} tok/s", tone=tone)
    return Chip(text="fits" if plan.memory.needed_bytes else "size unknown", tone=tone)


def _short_reason(model: ListedModel) -> str:
    """Why it cannot be loaded now, where verdict and facts do not say so already."""
    plan = model.plan
    if plan is None or not plan.resolved_model.is_supported():
        return model.problem
    if not plan.memory.fits:
        return f"needs {format_memory(plan.memory.needed_bytes)} of memory"
    return ""
