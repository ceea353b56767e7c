"""The list a person picks a model from: this machine, the catalog, the hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ollm_widgets.errors import DeletionError, OllmError
from ollm_widgets.models.deletion import plan_deletion
from ollm_widgets.models.search import FoundModel, search_models
from ollm_widgets.planning.config import RuntimeConfig

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.residency.elsewhere import Loader

# One page of this machine's models; beyond it a person searches.
MOST_LISTED = 100


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One entry: how to refer to it, and the plan for it on this machine.

    Parameters
    ----------
    reference, name
        What to resolve, and what a person calls it.
    plan
        Its plan with nothing chosen; None for a hub model, until what it is has been read, and
        for what cannot be planned.
    found
        What the search knows of it; None for a reference that was typed.
    problem
        Why it cannot be loaded now.
    frees_bytes
        What deleting its files would give back; 0 when they are not ours to delete.
    """

    reference: str
    name: str
    plan: RuntimePlan | None
    found: FoundModel | None = None
    problem: str = ""
    frees_bytes: int = 0

    @property
    def model_path(self) -> Path | None:
        """Its files; None while they are not here."""
        return None if self.plan is None else self.plan.model_path

    @property
    def on_this_machine(self) -> bool:
        """Whether its files are here."""
        return self.model_path is not None

    @property
    def is_known(self) -> bool:
        """Whether anything was found under its reference, here or by name."""
        return self.plan is not None and self.plan.resolved_model.source_kind != "opaque"

    @property
    def repo_id(self) -> str | None:
        """Its repository on the hub, as far as it is known."""
        if self.found is not None:
            return self.found.repo_id
        return None if self.plan is None else self.plan.resolved_model.repo_id

    @property
    def on_the_hub(self) -> bool:
        """Whether only the hub has it."""
        return self.found is not None and self.found.where == "hub"

    def matches(self, words: tuple[str, ...]) -> bool:
        """Whether every word occurs in its name, reference or repository."""
        if self.found is not None:
            return self.found.matches(words)
        text = f"{self.name} {self.reference}".casefold()
        return all(word in text for word in words)


class Planner(Protocol):
    """Says how a model would run: a loader as things are, a manager as if idle ones had left."""

    def plan(self, config: RuntimeConfig) -> RuntimePlan:
        """Plan without loading."""
        ...


def list_models(
    loader: Loader, models_dir: Path | None = None, planner: Planner | None = None
) -> tuple[ListedModel, ...]:
    """Plan every local model and catalog entry; those on this machine come first."""
    page = search_models(
        where=("machine",),
        page_size=MOST_LISTED,
        resolver=loader.resolver,
        models_dir=models_dir,
    )
    return tuple(_listed(planner or loader, page.items, models_dir))


def look_up(planner: Planner, reference: str, models_dir: Path | None = None) -> ListedModel:
    """Plan one reference with nothing chosen; a problem becomes part of the entry."""
    try:
        plan = planner.plan(RuntimeConfig(reference, models_dir=models_dir))
    except OllmError as error:
        return ListedModel(reference, reference, None, problem=str(error))
    name = plan.resolved_model.display_name
    problem = "" if plan.is_executable() else plan.reason
    return ListedModel(reference, name, plan, None, problem, _freed_bytes(plan, models_dir))


def _listed(
    planner: Planner, found: Iterable[FoundModel], models_dir: Path | None
) -> Iterable[ListedModel]:
    for model in found:
        known = look_up(planner, model.reference, models_dir)
        yield ListedModel(
            known.reference, model.name, known.plan, model, known.problem, known.frees_bytes
        )


def _freed_bytes(plan: RuntimePlan, models_dir: Path | None) -> int:
    try:
        return plan_deletion(plan.resolved_model, models_dir).bytes
    except DeletionError:
        return 0
