from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ollm_widgets.errors import DeletionError
from ollm_widgets.models.deletion import delete_model, plan_deletion
from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.resolver import ModelResolver

OTHER = "ab" * 20
AddToHubCache = Callable[..., Path]


@pytest.fixture
def models_dir(private_places: Path) -> Path:
    folder = private_places / "managed"
    folder.mkdir()
    return folder


@pytest.fixture
def finder(private_places: Path) -> ModelResolver:
    return ModelResolver(hub_cache_dir=private_places / "hub")


def test_a_managed_folder_is_planned_and_then_deleted(
    tiny_llama: Path, models_dir: Path, finder: ModelResolver
) -> None:
    folder = Path(shutil.copytree(tiny_llama, models_dir / "org--tiny"))
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_bytes(bytes(1_000))
    plan = plan_deletion(finder.resolve("org/tiny", models_dir), models_dir)
    assert plan.paths == (folder,)
    assert plan.bytes == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert "org--tiny" in plan.what
    assert folder.is_dir()
    assert plan.run() == plan.bytes
    assert list(models_dir.iterdir()) == []
    assert finder.resolve("org/tiny", models_dir).model_path is None


def test_the_folder_of_a_managed_gguf_goes_whole(
    tiny_gguf: Path, models_dir: Path, finder: ModelResolver
) -> None:
    folder = models_dir / "tiny-gguf"
    folder.mkdir()
    shutil.copy(tiny_gguf, folder)
    model = finder.resolve("tiny-gguf", models_dir)
    assert model.model_path == folder / "tiny.gguf"
    assert plan_deletion(model, models_dir).paths == (folder,)


def test_what_was_made_of_a_gguf_file_is_deleted_and_the_file_stays(
    tiny_llama: Path, tiny_gguf: Path, private_places: Path, models_dir: Path
) -> None:
    converted = private_places / "cache" / "converted" / "tiny-0123456789abcdef-bfloat16"
    shutil.copytree(tiny_llama, converted)
    model = inspect_materialized_model("smollm2-135m", converted, "builtin")
    plan = plan_deletion(model, models_dir)
    assert plan.paths == (converted,)
    assert "GGUF" in plan.what
    plan.run()
    assert not converted.exists()
    assert tiny_gguf.exists()


def test_a_revision_in_the_hubs_cache_is_deleted_by_the_hubs_client(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, models_dir: Path, finder: ModelResolver
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    other = add_to_hub_cache(tiny_llama, "org/tiny", commit=OTHER, ref="v1")
    plan = plan_deletion(finder.resolve("org/tiny", models_dir), models_dir)
    assert snapshot in plan.paths
    assert other not in plan.paths
    assert len(plan.paths) == 1 + len(list(tiny_llama.iterdir()))
    assert plan.bytes == sum(file.stat().st_size for file in tiny_llama.iterdir())
    assert plan.run() == plan.bytes
    assert not snapshot.exists()
    assert finder.resolve("org/tiny@v1", models_dir).model_path == other
    last = finder.resolve("org/tiny@v1", models_dir)
    assert plan_deletion(last, models_dir).paths == (other.parents[1],)
    assert delete_model(last, models_dir) == plan.bytes
    assert not other.parents[1].exists()


def test_blobs_that_another_revision_uses_stay(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, models_dir: Path, finder: ModelResolver
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    other = snapshot.with_name(OTHER)
    shutil.copytree(snapshot, other, symlinks=True)
    (other.parents[1] / "refs" / "v1").write_text(OTHER)
    plan = plan_deletion(finder.resolve("org/tiny@v1", models_dir), models_dir)
    assert plan.bytes == 0
    plan.run()
    assert not other.exists()
    assert finder.resolve("org/tiny", models_dir).is_supported()
    assert (snapshot / "model.safetensors").exists()


def test_a_persons_own_folder_is_refused(
    tiny_llama: Path, models_dir: Path, finder: ModelResolver
) -> None:
    with pytest.raises(DeletionError, match="is your own") as caught:
        plan_deletion(finder.resolve(tiny_llama), models_dir)
    assert str(models_dir) in caught.value.message
    assert tiny_llama.is_dir()


def test_a_folder_deeper_in_the_managed_folder_is_refused(
    tiny_llama: Path, models_dir: Path, finder: ModelResolver
) -> None:
    folder = Path(shutil.copytree(tiny_llama, models_dir / "a" / "b"))
    with pytest.raises(DeletionError, match="is your own"):
        plan_deletion(finder.resolve(folder), models_dir)


def test_the_managed_folder_itself_and_a_file_in_it_are_refused(
    tiny_llama: Path, tiny_gguf: Path, models_dir: Path, finder: ModelResolver
) -> None:
    shutil.copytree(tiny_llama, models_dir, dirs_exist_ok=True)
    shutil.copy(tiny_gguf, models_dir)
    for path in (models_dir, models_dir / "tiny.gguf"):
        with pytest.raises(DeletionError, match="is your own"):
            plan_deletion(finder.resolve(path), models_dir)


def test_a_link_in_the_managed_folder_is_refused(
    tiny_llama: Path, models_dir: Path, finder: ModelResolver
) -> None:
    (models_dir / "linked").symlink_to(tiny_llama)
    model = finder.resolve("linked", models_dir)
    with pytest.raises(DeletionError, match="is a link to"):
        plan_deletion(model, models_dir)
    assert tiny_llama.is_dir()


def test_folders_right_in_the_home_folder_are_never_managed(
    tiny_llama: Path, tmp_path: Path, finder: ModelResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DeletionError, match="is your own"):
        plan_deletion(finder.resolve(tiny_llama), tmp_path)


def test_the_gguf_file_of_a_wheel_is_refused(
    smollm_gguf: Path, models_dir: Path, finder: ModelResolver
) -> None:
    with pytest.raises(DeletionError, match="belongs to the installed wheel") as caught:
        plan_deletion(finder.resolve("smollm2-135m", models_dir), models_dir)
    assert "pip uninstall" in caught.value.hint
    assert smollm_gguf.exists()


def test_what_is_not_here_cannot_be_deleted(finder: ModelResolver, models_dir: Path) -> None:
    with pytest.raises(DeletionError, match="not on this machine"):
        plan_deletion(finder.resolve("gpt-oss-20B", models_dir), models_dir)


def test_a_cache_that_the_client_cannot_read_is_refused(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, models_dir: Path, finder: ModelResolver
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    model = replace(finder.resolve("org/tiny", models_dir), model_path=snapshot.with_name(OTHER))
    shutil.copytree(tiny_llama, snapshot.with_name(OTHER))
    shutil.rmtree(snapshot.parents[1] / "refs")
    (snapshot.parents[1] / "refs").write_text("no folder")
    plan = plan_deletion(model, models_dir)
    with pytest.raises(DeletionError, match="no revision"):
        plan.run()
    assert snapshot.exists()


def test_a_name_that_no_file_can_have_is_an_error_of_ours(
    finder: ModelResolver, models_dir: Path
) -> None:
    with pytest.raises(DeletionError, match="not on this machine"):
        plan_deletion(finder.resolve("path:" + "x" * 4_000), models_dir)


def test_a_folder_that_changed_since_the_plan_stays(
    tiny_llama: Path, models_dir: Path, finder: ModelResolver
) -> None:
    folder = Path(shutil.copytree(tiny_llama, models_dir / "mine"))
    plan = plan_deletion(finder.resolve("mine", models_dir), models_dir)
    shutil.rmtree(folder)
    folder.symlink_to(tiny_llama)
    with pytest.raises(DeletionError, match="not the folder that it was"):
        plan.run()
    assert (tiny_llama / "config.json").exists()
