from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.models.hub_cache import cached_models, find_snapshot, is_repo_id

OTHER_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"
AddToHubCache = Callable[..., Path]


def test_the_main_branch_leads_to_its_snapshot(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, tmp_path: Path
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    add_to_hub_cache(tiny_llama, "org/tiny", OTHER_COMMIT, ref="v1")
    assert find_snapshot("org/tiny", cache_dir=tmp_path / "hub") == snapshot


def test_a_branch_or_a_commit_is_found_by_name(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, tmp_path: Path
) -> None:
    add_to_hub_cache(tiny_llama, "org/tiny")
    other = add_to_hub_cache(tiny_llama, "org/tiny", OTHER_COMMIT, ref="v1")
    for revision in ("v1", OTHER_COMMIT):
        assert find_snapshot("org/tiny", revision, tmp_path / "hub") == other
    assert find_snapshot("org/tiny", "v2", tmp_path / "hub") is None


def test_a_snapshot_without_a_branch_is_found_when_none_was_asked_for(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, tmp_path: Path
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny", ref=None)
    assert find_snapshot("org/tiny", cache_dir=tmp_path / "hub") == snapshot


def test_an_incomplete_snapshot_is_not_found(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, tmp_path: Path
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    (snapshot / "model.safetensors").unlink()
    assert find_snapshot("org/tiny", cache_dir=tmp_path / "hub") is None
    assert cached_models(tmp_path / "hub") == ()


def test_complete_snapshots_are_listed_in_order(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, tmp_path: Path
) -> None:
    add_to_hub_cache(tiny_llama, "org/b")
    add_to_hub_cache(tiny_llama, "gpt2", ref=None)
    add_to_hub_cache(tiny_llama, "org/a-model")
    (tmp_path / "hub" / "datasets--org--data").mkdir()
    found = cached_models(tmp_path / "hub")
    assert [(model.repo_id, model.is_main) for model in found] == [
        ("gpt2", False),
        ("org/a-model", True),
        ("org/b", True),
    ]


def test_an_absent_cache_holds_nothing(tmp_path: Path) -> None:
    assert cached_models(tmp_path / "none") == ()
    assert find_snapshot("org/tiny", cache_dir=tmp_path / "none") is None


@pytest.mark.parametrize("revision", ["../../secret", "/etc/passwd", "..\\x"])
def test_a_revision_is_no_way_out_of_the_cache(tmp_path: Path, revision: str) -> None:
    (tmp_path / "hub" / "models--org--tiny" / "refs").mkdir(parents=True)
    (tmp_path / "hub" / "secret").write_text(OTHER_COMMIT)
    assert find_snapshot("org/tiny", revision, tmp_path / "hub") is None


@pytest.mark.parametrize(
    ("text", "valid"),
    [("org/name", True), ("gpt2", True), ("a/b/c", False), ("../x", False), ("org/a--b", False)],
)
def test_repository_ids_are_told_from_other_text(text: str, valid: bool) -> None:
    assert is_repo_id(text) is valid
