from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.errors import MalformedModelError, UnsafeModelError
from ollm_widgets.models import safety
from ollm_widgets.models.safety import check_folder
from ollm_widgets.models.tensors import read_safetensors_header


def test_a_plain_folder_passes(tiny_llama: Path) -> None:
    check_folder(tiny_llama)


def test_a_link_that_leaves_the_folder_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (tiny_llama / "generation_config.json").unlink()
    (tiny_llama / "generation_config.json").symlink_to(secret)
    with pytest.raises(UnsafeModelError, match="outside"):
        check_folder(tiny_llama)


def test_a_linked_folder_inside_the_folder_is_refused_too(tiny_llama: Path, tmp_path: Path) -> None:
    (tiny_llama / "additional").symlink_to(tmp_path)
    with pytest.raises(UnsafeModelError, match="outside"):
        check_folder(tiny_llama)


def test_a_link_within_the_folder_passes(tiny_llama: Path) -> None:
    (tiny_llama / "copy.json").symlink_to("config.json")
    check_folder(tiny_llama)


def test_links_into_the_own_blobs_of_a_hub_snapshot_pass(
    tiny_llama: Path, add_to_hub_cache: Callable[..., Path]
) -> None:
    check_folder(add_to_hub_cache(tiny_llama, "org/tiny"))


def test_links_into_the_store_shared_by_the_hubs_repositories_pass(
    tiny_llama: Path, add_to_hub_cache: Callable[..., Path]
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    link = snapshot / "model.safetensors"
    blob = snapshot.parent.parent / "blobs" / link.readlink().name
    name = "ab" * 32
    shared = snapshot.parents[2] / "blobs" / "ab" / name
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(Path("..") / ".." / "blobs" / "ab" / name)
    check_folder(snapshot)


def test_a_snapshot_may_not_link_into_another_repository(
    tiny_llama: Path, add_to_hub_cache: Callable[..., Path]
) -> None:
    other = add_to_hub_cache(tiny_llama, "org/other")
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "config.json")
    with pytest.raises(UnsafeModelError, match="outside"):
        check_folder(snapshot)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_a_folder_of_pickles_is_refused(tiny_llama: Path, suffix: str) -> None:
    (tiny_llama / "model.safetensors").rename(tiny_llama / f"weights{suffix}")
    with pytest.raises(UnsafeModelError, match="pickle"):
        check_folder(tiny_llama)


def test_a_folder_with_too_many_files_is_refused(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety, "MAX_ENTRIES", 3)
    with pytest.raises(UnsafeModelError, match="more than 3 files"):
        check_folder(tiny_llama)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_a_file_does_not_block(tiny_llama: Path) -> None:
    (tiny_llama / "model.safetensors").unlink()
    os.mkfifo(tiny_llama / "model.safetensors")
    with pytest.raises(MalformedModelError, match="not a regular file"):
        read_safetensors_header(tiny_llama / "model.safetensors")
