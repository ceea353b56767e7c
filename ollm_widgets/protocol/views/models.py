"""Region `Models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.snapshot import Chip, Group, ModelItem, ModelsView, Tone
from ollm_widgets.render.units import format_bytes, format_count, format_memory

if TYPE_CHECKING:
    from ollm_widgets.models.found import FoundModel
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
            chosen=_chosen(session),
            note=(
                "Type a folder, a GGUF file or a hub id to use a model that is not listed. "
                "Nothing is downloaded to make these verdicts."
            ),
            searching=browser.searching,
            more=browser.more_on_hub,
            problem=browser.problem,
        )


def _chosen(session: Session) -> str | None:
    if session.plan is not None:
        return session.browser.reference_of(session.plan)
    return str(session.config.model_reference) if session.config else None


def _item(model: ListedModel) -> ModelItem:
    plan = model.plan
    return ModelItem(
        reference=model.reference,
        name=model.name,
        group=_group(model),
        facts=", ".join(_plan_facts(plan) if plan is not None else _hub_facts(model.found)),
        verdict=Chip(text="on the hub") if model.on_the_hub else _verdict(plan),
        available=plan is not None and plan.is_executable(),
        reason=_short_reason(model),
        frees_bytes=model.frees_bytes,
    )


def _group(model: ListedModel) -> Group:
    if model.on_the_hub:
        return "On the hub"
    if model.found is None:
        return "As typed"
    return "On this machine" if model.on_this_machine else "In the catalog"


def _plan_facts(plan: RuntimePlan) -> list[str]:
    profile = plan.resolved_model.capabilities
    facts: list[str] = []
    if profile.parameters:
        facts.append(f"{format_count(profile.parameters)} parameters")
    if profile.bytes_on_disk:
        facts.append(format_bytes(profile.bytes_on_disk))
    if facts:
        facts.append(", ".join(profile.modalities))
    if plan.needs_files:
        facts.append("not downloaded")
    return facts


def _hub_facts(found: FoundModel | None) -> list[str]:
    facts: list[str] = []
    if found is None:
        return facts
    if found.parameters:
        facts.append(f"{format_count(found.parameters)} parameters")
    if found.downloads is not None:
        facts.append(f"{format_count(found.downloads)} downloads")
    if found.licence:
        facts.append(found.licence)
    if found.gated:
        facts.append("gated")
    return facts


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
