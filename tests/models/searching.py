"""What the tests of a search share: a search with places of its own, and looks at a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.models.found import FoundModel
from ollm_widgets.models.resolver import ModelResolver
from ollm_widgets.models.search import SearchPage, search_models

Search = Callable[..., SearchPage]


@pytest.fixture
def models_dir(private_places: Path) -> Path:
    folder = private_places / "managed"
    folder.mkdir()
    return folder


@pytest.fixture
def search(private_places: Path, models_dir: Path) -> Search:
    """Search with a hub cache and a folder of managed models of the test's own."""
    finder = ModelResolver(hub_cache_dir=private_places / "hub")

    def search(text: str = "", **options: object) -> SearchPage:
        options.setdefault("resolver", finder)
        options.setdefault("models_dir", models_dir)
        return search_models(text, **options)  # type: ignore[arg-type]

    return search


def references(page: SearchPage) -> list[str]:
    return [model.reference for model in page.items]


def only(page: SearchPage) -> FoundModel:
    (model,) = page.items
    return model
