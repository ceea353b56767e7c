"""What ``%ollm list`` and ``%ollm search`` show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollm_widgets.planning.verdict import verdict_of
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable
from ollm_widgets.render.units import format_bytes, format_count

if TYPE_CHECKING:
    from ollm_widgets.models.found import FoundModel, SearchPage
    from ollm_widgets.notebook.memory import InMemory
    from ollm_widgets.session.shelf import ListedModel


@dataclass(frozen=True, slots=True)
class ModelListing(Renderable):
    """The catalog and the models on this machine, with a verdict each."""

    models: tuple[ListedModel, ...]
    loaded: tuple[InMemory, ...]

    def card(self) -> Card:
        """One row a model; what is in memory comes first, with what it holds there."""
        loaded = tuple(Row(one.id, f"in memory: {one.text}", "ok") for one in self.loaded)
        return Card(
            title="Models",
            subtitle=f"in memory: {', '.join(one.id for one in self.loaded) or 'none'}",
            rows=(*loaded, *map(_row, self.models)),
        )


@dataclass(frozen=True, slots=True)
class SearchListing(Renderable):
    """One page of a search."""

    page: SearchPage

    def card(self) -> Card:
        """One row a model, and what is missing."""
        page = self.page
        rows = [Row(model.name, _facts(model)) for model in page.items]
        if page.has_more:
            rows.append(Row("", f"More with --page {page.page + 1}."))
        if page.hub_problem:
            rows.append(Row("", page.hub_problem, "warn"))
        return Card(
            title="Search",
            subtitle=f"page {page.page}" if page.items else "nothing found",
            rows=tuple(rows),
        )


def _row(model: ListedModel) -> Row:
    """Say whether it runs and how fast, and whether its files must come first."""
    if model.plan is None:
        return Row(model.name, f"cannot run: {model.problem}", "no")
    verdict = verdict_of(model.plan)
    text = verdict.text
    if model.plan.needs_files and not verdict.refused:
        size_bytes = model.plan.resolved_model.capabilities.bytes_on_disk
        size = f" ({format_bytes(size_bytes)})" if size_bytes else ""
        text = f"{text}; not downloaded{size}"
    return Row(model.name, text, "no" if verdict.refused else "neutral")


def _facts(model: FoundModel) -> str:
    facts: list[str] = [model.where]
    if model.parameters:
        facts.append(f"{format_count(model.parameters)} parameters")
    if model.bytes_on_disk:
        facts.append(format_bytes(model.bytes_on_disk))
    if model.downloads is not None:
        facts.append(f"{format_count(model.downloads)} downloads")
    if model.licence:
        facts.append(model.licence)
    if model.gated:
        facts.append("gated")
    return ", ".join(facts)
