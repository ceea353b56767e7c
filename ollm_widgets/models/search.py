"""Finding a model by words: on this machine, in the catalog and on the hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from ollm_widgets import settings
from ollm_widgets.errors import ConfigError, HubUnavailableError, UnsupportedModelError
from ollm_widgets.models.found import FoundModel, SearchPage
from ollm_widgets.models.hub_cache import hub_address
from ollm_widgets.models.hub_errors import hub_errors
from ollm_widgets.models.hub_search import HubQuery, HubSort, find_on_hub
from ollm_widgets.models.job_control import CancelFlag
from ollm_widgets.models.local_search import find_folder, find_here
from ollm_widgets.models.resolver import ModelResolver

__all__ = ["FoundModel", "Place", "SearchPage", "Sort", "search_models"]

Place: TypeAlias = Literal["machine", "hub"]
Sort: TypeAlias = Literal[
    "downloads", "likes", "trending", "updated", "created", "name", "size", "last-used"
]

MAX_PAGE_SIZE = 100
# Beyond these the hub is asked for nothing; words narrow a search better than pages.
_MOST_HUB_MODELS = 2_000
_HUB_SORTS: dict[Sort, HubSort] = {
    "likes": "likes",
    "trending": "trending_score",
    "updated": "last_modified",
    "created": "created_at",
}


def search_models(
    text: str = "",
    *,
    task: str | None = None,
    sort: Sort = "downloads",
    page: int = 1,
    page_size: int = 20,
    where: Sequence[Place] = ("machine", "hub"),
    resolver: ModelResolver | None = None,
    models_dir: Path | None = None,
    cancel: CancelFlag | None = None,
) -> SearchPage:
    """Find models by the words of their names.

    This machine's models come first, then the catalog's, then the hub's. The hub is asked only
    when the page has room for its models, and what goes wrong there becomes `hub_problem`.

    Parameters
    ----------
    text
        Words that the name contains, in any case; or the path of a model.
    task
        The hub's name of a task, such as ``text-generation``; ``None`` takes all.
    sort
        Order of the hub's models, and of this machine's for ``name``, ``size`` and
        ``last-used``, which the hub does not know and answers by downloads.
    page, page_size
        Which page, counted from 1, and its items (at most 100).
    where
        ``machine`` for this machine and the catalog, ``hub`` for the hub.
    resolver
        Knows the catalog and the hub's cache; ``None`` takes a new one.
    models_dir
        Folder of managed models; ``None`` takes the default one.
    cancel
        Looked at between models.

    Raises
    ------
    ConfigError
        When a parameter holds a value that cannot work.
    Cancelled
        When `cancel` was set.
    """
    _check(sort, page, page_size, where)
    resolver = resolver or ModelResolver()
    models_dir = models_dir or settings.default_models_dir()
    typed = find_folder(text, resolver, models_dir) if text.strip() else None
    if typed is not None:
        return SearchPage((typed,) if page == 1 else (), page, page_size)
    words = tuple(text.casefold().split())
    here = list(find_here(resolver, models_dir, cancel))
    local: list[FoundModel] = []
    if "machine" in where:
        local = _sorted([model for model in here if model.matches(words, task)], sort)
    stop = page * page_size
    if "hub" not in where or len(local) > stop:
        return _page(local, page, page_size)
    # A repository that is listed above, or would be if its words matched, is no item of the hub.
    known = {model.repo_id.casefold(): model for model in here if model.repo_id is not None}
    listed = set(known) if "machine" in where else set()
    wanted = stop + 1 - len(local)
    limit = min(wanted + len(listed), _MOST_HUB_MODELS)
    query = HubQuery(" ".join(words), task, _HUB_SORTS.get(sort, "downloads"), limit)
    remote: list[FoundModel] = []

    def take(model: FoundModel) -> bool:
        if model.reference.casefold() not in listed:
            remote.append(_with_local_facts(model, known))
        return len(remote) < wanted

    problem = ""
    try:
        with hub_errors(hub_address()):
            find_on_hub(query, hub_address(), take, cancel)
    except (HubUnavailableError, UnsupportedModelError) as error:
        problem = str(error)
    return replace(_page([*local, *remote], page, page_size), hub_problem=problem)


def _page(found: Sequence[FoundModel], page: int, page_size: int) -> SearchPage:
    start, stop = (page - 1) * page_size, page * page_size
    return SearchPage(tuple(found[start:stop]), page, page_size, len(found) > stop)


def _with_local_facts(model: FoundModel, known: Mapping[str, FoundModel]) -> FoundModel:
    """Copy of the hub's item that says whether the model is on this machine."""
    here = known.get(model.reference.casefold())
    if here is None or not here.downloaded:
        return model
    return replace(
        model, downloaded=True, last_used=here.last_used, bytes_on_disk=here.bytes_on_disk
    )


def _sorted(models: Iterable[FoundModel], sort: Sort) -> list[FoundModel]:
    """Put this machine's models before the catalog's, each group in the order asked for."""

    def order(model: FoundModel) -> tuple[bool, float, str]:
        rank = 0.0
        if sort == "size":
            rank = -float(model.bytes_on_disk or 0)
        elif sort == "last-used" and model.last_used is not None:
            rank = -model.last_used.timestamp()
        return (not model.downloaded, rank, model.name.casefold())

    return sorted(models, key=order)


def _check(sort: Sort, page: int, page_size: int, where: Sequence[Place]) -> None:
    if sort not in get_args(Sort):
        raise ConfigError("sort", f"{sort!r} is none of {', '.join(get_args(Sort))}.")
    if page < 1:
        raise ConfigError("page", f"{page} is no page; the first is 1.")
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise ConfigError("page_size", f"{page_size} is not from 1 to {MAX_PAGE_SIZE}.")
    unknown = [place for place in where if place not in get_args(Place)]
    if unknown or isinstance(where, str):
        raise ConfigError("where", f"{where!r} may hold machine and hub only.")
