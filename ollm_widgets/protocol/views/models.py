"""Region `Models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.planning.verdict import Verdict, verdict_of
from ollm_widgets.protocol.pieces import Chip
from ollm_widgets.protocol.snapshot import Group, ModelItem, ModelsView
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
                "Verdicts need no download: of models on the hub only the headers are read."
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
    verdict = None if plan is None else verdict_of(plan)
    return ModelItem(
        reference=model.reference,
        name=model.name,
        group=_group(model),
        facts=", ".join(_facts(model)),
        verdict=_chip(model, verdict),
        available=plan is not None and plan.is_executable(),
        reason=_short_reason(model, verdict),
        frees_bytes=model.frees_bytes,
    )


def _group(model: ListedModel) -> Group:
    if model.on_the_hub:
        return "On the hub"
    if model.found is None:
        return "As typed"
    return "On this machine" if model.on_this_machine else "In the catalog"


def _facts(model: ListedModel) -> list[str]:
    if model.found is not None and model.on_the_hub:
        return _hub_facts(model.found, model.plan)
    return _plan_facts(model.plan) if model.plan is not None else []


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


def _hub_facts(found: FoundModel, plan: RuntimePlan | None) -> list[str]:
    """What only the hub knows, and what its list or the model's headers say of the size."""
    facts: list[str] = []
    profile = None if plan is None else plan.resolved_model.capabilities
    parameters = found.parameters or (profile.parameters if profile is not None else None)
    size_bytes = found.bytes_on_disk or (profile.bytes_on_disk if profile is not None else None)
    if parameters:
        facts.append(f"{format_count(parameters)} parameters")
    if size_bytes:
        facts.append(format_bytes(size_bytes))
    if found.downloads is not None:
        facts.append(f"{format_count(found.downloads)} downloads")
    if found.licence:
        facts.append(found.licence)
    if found.gated:
        facts.append("gated")
    return facts


def _chip(model: ListedModel, verdict: Verdict | None) -> Chip:
    if verdict is not None:
        ready = model.plan is not None and model.plan.is_executable()
        return Chip(text=verdict.short, tone="no" if verdict.refused else "ok" if ready else "warn")
    if model.on_the_hub:
        return Chip(text="on the hub", tone="warn" if model.problem else "neutral")
    return Chip(text="cannot run", tone="no")


def _short_reason(model: ListedModel, verdict: Verdict | None) -> str:
    """Why it cannot be loaded now, where verdict and facts do not say so already."""
    if verdict is None:
        return model.problem
    if verdict.kind == "unsupported":
        return verdict.reason
    return f"needs {format_memory(verdict.needs_bytes)} of memory" if verdict.missing_bytes else ""
