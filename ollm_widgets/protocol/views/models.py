"""Region `Models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollm_widgets.protocol.snapshot import Chip, ModelItem, ModelsView
from ollm_widgets.render.units import format_bytes, format_count

if TYPE_CHECKING:
    from ollm_widgets.session.session import Session
    from ollm_widgets.session.shelf import ListedModel


def view_models(session: Session) -> ModelsView:
    """The models that match the query, those on this machine first."""
    with session.lock:
        words = session.query.casefold().split()
        listed = [model for model in session.models if model.matches(words)]
        if session.typed is not None:
            listed.append(session.typed)
        return ModelsView(
            query=session.query,
            items=tuple(_item(model) for model in listed),
            chosen=session.config.model_reference if session.config else None,
            note=(
                "Type a folder, a GGUF file or a hub id to use a model that is not listed. "
                "Nothing is downloaded to make these verdicts."
            ),
            searching=session.searching,
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
    return ModelItem(
        reference=model.reference,
        name=model.name,
        group="On this machine" if here else "In the catalog",
        facts=", ".join(facts),
        verdict=_verdict(model),
        available=plan is not None and plan.is_executable(),
        reason=model.problem,
    )


def _verdict(model: ListedModel) -> Chip:
    plan = model.plan
    if plan is not None and plan.is_executable():
        if plan.speed is None:
            return Chip(text="fits", tone="ok")
        return Chip(text=f"{plan.speed.tokens_per_s:.3g} tok/s", tone="ok")
    if plan is None or not plan.resolved_model.is_supported():
        return Chip(text="cannot run", tone="no")
    if not plan.memory.fits:
        return Chip(text="too large", tone="no")
    return Chip(text="ready to run" if model.on_this_machine else "not downloaded", tone="warn")
