from __future__ import annotations

from ollm_widgets.models.catalog import CATALOG, alias_of_repo, find_alias
from ollm_widgets.models.hub_cache import is_repo_id


def test_aliases_are_found_whatever_their_case() -> None:
    entry = find_alias("LLAMA3-1b-Chat")
    assert entry is not None
    assert entry.alias == "llama3-1B-chat"
    assert find_alias("llama3") is None


def test_a_repository_leads_back_to_its_alias() -> None:
    entry = alias_of_repo("openai/GPT-OSS-20b")
    assert entry is not None
    assert entry.alias == "gpt-oss-20B"


def test_aliases_and_repositories_are_unique_and_valid() -> None:
    assert len({entry.alias.casefold() for entry in CATALOG}) == len(CATALOG)
    assert len({entry.repo_id.casefold() for entry in CATALOG}) == len(CATALOG)
    assert all(is_repo_id(entry.repo_id) for entry in CATALOG)


def test_exactly_one_model_is_embedded() -> None:
    assert [entry.alias for entry in CATALOG if entry.embedded] == ["smollm2-135m"]


def test_every_modality_appears_in_the_catalog() -> None:
    modalities = {modality for entry in CATALOG for modality in entry.modalities}
    assert modalities == {"text", "image", "audio"}
