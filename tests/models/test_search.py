from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ollm_widgets.errors import Cancelled, ConfigError
from tests.models.searching import Search, models_dir, only, references, search  # noqa: F401

# Fixtures that are imported look like names that a parameter hides.
# ruff: noqa: F811

AddToHubCache = Callable[..., Path]


def test_the_catalog_is_found_without_a_network(search: Search) -> None:
    page = search("llama", where=("machine",))
    assert references(page) == ["llama3-1B-chat", "llama3-3B-chat", "llama3-8B-chat"]
    model = page.items[0]
    assert (model.where, model.downloaded) == ("catalog", False)
    assert model.repo_id == "meta-llama/Llama-3.2-1B-Instruct"
    assert (model.licence, model.gated) == ("llama3.2", True)
    assert (model.task, model.modalities) == ("text-generation", ("text",))
    assert model.parameters == 1_235_814_400
    assert page.hub_problem == ""


def test_every_word_must_match_in_any_case(search: Search) -> None:
    assert references(search("LLAMA 8b", where=("machine",))) == ["llama3-8B-chat"]
    assert references(search("llama qwen", where=("machine",))) == []


def test_a_managed_folder_is_found_with_its_size_and_last_use(
    search: Search, models_dir: Path, tiny_llama: Path
) -> None:
    folder = Path(shutil.copytree(tiny_llama, models_dir / "mine"))
    for file in folder.iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))
    model = only(search("mine", where=("machine",)))
    assert (model.where, model.downloaded) == ("managed folder", True)
    assert model.reference == f"path:{folder}"
    assert model.bytes_on_disk == sum(file.stat().st_size for file in folder.iterdir())
    assert model.last_used == datetime.fromtimestamp(1_700_000_000, UTC)
    assert model.parameters is not None
    assert model.problem == ""


def test_a_cached_repository_is_one_item(
    search: Search, models_dir: Path, tiny_llama: Path, add_to_hub_cache: AddToHubCache
) -> None:
    add_to_hub_cache(tiny_llama, "org/tiny")
    add_to_hub_cache(tiny_llama, "org/tiny", commit="ab" * 20, ref="v1")
    model = only(search("tiny", where=("machine",)))
    assert (model.where, model.reference, model.repo_id) == ("hub cache", "org/tiny", "org/tiny")
    assert model.downloaded
    assert model.last_used is not None
    shutil.copytree(tiny_llama, models_dir / "org--tiny")
    model = only(search("tiny", where=("machine",)))
    assert (model.where, model.reference) == ("managed folder", "org/tiny")


def test_a_catalog_model_that_is_here_is_one_item_too(
    search: Search, tiny_llama: Path, add_to_hub_cache: AddToHubCache
) -> None:
    add_to_hub_cache(tiny_llama, "openai/gpt-oss-20b")
    model = only(search("gpt-oss", where=("machine",)))
    assert (model.where, model.reference) == ("hub cache", "gpt-oss-20B")
    assert model.downloaded


def test_this_machines_models_come_first_in_the_order_asked_for(
    search: Search, models_dir: Path, tiny_llama: Path
) -> None:
    for name, stamp in (("big", 1), ("alpha", 3), ("new", 2)):
        folder = Path(shutil.copytree(tiny_llama, models_dir / f"test-{name}"))
        (folder / "notes.txt").write_bytes(bytes(100_000 if name == "big" else 10))
        for file in folder.iterdir():
            os.utime(file, (1_700_000_000 + stamp, 1_700_000_000 + stamp))

    def order(sort: str) -> list[str]:
        return [model.name for model in search("test", sort=sort, where=("machine",)).items]

    assert order("name") == ["test-alpha", "test-big", "test-new"]
    assert order("size")[0] == "test-big"
    assert order("last-used") == ["test-alpha", "test-new", "test-big"]


def test_a_model_that_cannot_run_says_why(
    search: Search, models_dir: Path, tiny_llama: Path
) -> None:
    folder = Path(shutil.copytree(tiny_llama, models_dir / "broken"))
    (folder / "config.json").write_text("{")
    model = only(search("broken", where=("machine",)))
    assert "not valid JSON" in model.problem


def test_a_path_that_was_typed_is_the_only_item(
    search: Search, tiny_llama: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (str(tiny_llama), f"path:{tiny_llama}"):
        model = only(search(text))
        assert (model.where, model.reference) == ("folder", f"path:{tiny_llama}")
    assert only(search(str(tiny_gguf))).where == "folder"
    monkeypatch.chdir(tiny_llama.parent)
    assert only(search("./tiny-llama")).where == "folder"
    assert search("tiny-llama", where=("machine",)).items == ()


def test_a_task_is_filtered_by(search: Search) -> None:
    page = search(task="image-text-to-text", where=("machine",))
    assert references(page) == ["gemma3-12B"]
    assert page.items[0].modalities == ("text", "image")


def test_a_search_can_be_cancelled(search: Search) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        search("x", cancel=cancel)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"page": 0}, "page"),
        ({"page_size": 0}, "page_size"),
        ({"page_size": 1_000}, "page_size"),
        ({"sort": "beauty"}, "sort"),
        ({"where": ("moon",)}, "where"),
        ({"where": "hub"}, "where"),
    ],
)
def test_a_parameter_that_cannot_work_is_named(
    search: Search, options: dict[str, object], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        search(**options)
    assert caught.value.field == field
