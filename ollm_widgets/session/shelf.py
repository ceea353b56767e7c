"""The list a person picks a model from: the catalog, and what is on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.errors import OllmError
from ollm_widgets.planning.config import RuntimeConfig

if TYPE_CHECKING:
    from ollm_widgets.planning.plan import RuntimePlan
    from ollm_widgets.runtime.loader import RuntimeLoader


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One entry: how to refer to it, and the plan for it on this machine."""

    reference: str
    name: str
    plan: RuntimePlan | None
    problem: str = ""

    @property
    def on_this_machine(self) -> bool:
        """Whether its files are here."""
        return self.plan is not None and self.plan.model_path is not None

    def matches(self, words: list[str]) -> bool:
        """Whether every word occurs in its name or reference."""
        text = f"{self.name} {self.reference}".casefold()
        return all(word in text for word in words)


def list_models(loader: RuntimeLoader, models_dir: Path | None = None) -> tuple[ListedModel, ...]:
    """Plan every catalog entry and every local model; those on this machine come first."""
    from ollm_widgets.models.catalog import CATALOG

    references = [entry.alias for entry in CATALOG]
    known = {entry.repo_id for entry in CATALOG}
    for resolved in loader.discover_local_models(models_dir):
        if resolved.repo_id not in known:
            references.append(_reference_of(resolved.repo_id, resolved.model_path))
    listed = [look_up(loader, reference, models_dir) for reference in dict.fromkeys(references)]
    return tuple(sorted(listed, key=lambda model: not model.on_this_machine))


def look_up(loader: RuntimeLoader, reference: str, models_dir: Path | None = None) -> ListedModel:
    """Plan one reference with nothing chosen; a problem becomes part of the entry."""
    config = RuntimeConfig(reference, models_dir=models_dir)
    try:
        plan = loader.plan(config)
    except OllmError as error:
        return ListedModel(reference, reference, None, str(error))
    name = plan.resolved_model.display_name
    return ListedModel(reference, name, plan, "" if plan.is_executable() else plan.reason)


def _reference_of(repo_id: str | None, path: Path | None) -> str:
    return repo_id if repo_id is not None else f"path:{path}"
