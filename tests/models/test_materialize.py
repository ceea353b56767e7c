from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets import settings
from ollm_widgets.errors import (
    Cancelled,
    GatedModelError,
    MalformedModelError,
    ManagedModelDownloadError,
    OutOfMemory,
    UnsafeModelError,
    UnsupportedModelError,
)
from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.conversion import converted_folder
from ollm_widgets.models.materialize import gguf_to_safetensors, managed_folder, materialize
from ollm_widgets.models.resolver import ModelResolver


@pytest.fixture
def resolver(private_places: Path) -> ModelResolver:
    return ModelResolver(hub_cache_dir=private_places / "hub")


def test_the_converted_model_answers_paris(converted_smollm: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted_smollm, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        converted_smollm, dtype=torch.float32, local_files_only=True
    )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    output = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in answer


def test_the_conversion_is_complete_and_found_again(
    converted_smollm: Path, smollm_gguf: Path
) -> None:
    assert find_gaps(converted_smollm) == ()
    assert (converted_smollm / "generation_config.json").is_file()
    assert converted_folder(smollm_gguf, settings.cache_dir()) == converted_smollm
    assert gguf_to_safetensors(smollm_gguf, settings.cache_dir()) == converted_smollm


def test_the_embedded_alias_is_its_converted_folder(converted_smollm: Path, tmp_path: Path) -> None:
    resolved = ModelResolver(hub_cache_dir=tmp_path).resolve("smollm2-135m", tmp_path)
    assert resolved.model_path == converted_smollm
    assert materialize(resolved, tmp_path) == converted_smollm


def test_a_small_gguf_is_converted_once_with_its_chat_template(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    stages: list[str] = []
    folder = gguf_to_safetensors(tiny_gguf, tmp_path, lambda stage, *_: stages.append(stage))
    assert find_gaps(folder) == ()
    assert (folder / "chat_template.jinja").is_file()
    assert list(dict.fromkeys(stages)) == [
        "Check GGUF",
        "Convert GGUF",
        "Write safetensors",
        "Check files",
    ]
    stages.clear()
    assert gguf_to_safetensors(tiny_gguf, tmp_path, lambda stage, *_: stages.append(stage))
    assert stages == []


def test_leftovers_and_a_damaged_conversion_are_replaced(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = gguf_to_safetensors(tiny_gguf, tmp_path)
    leftover = folder.with_name(f".{folder.name}.partial-1")
    leftover.mkdir()
    (leftover / "config.json").write_text("{")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert converted_folder(tiny_gguf, tmp_path) is None
    assert gguf_to_safetensors(tiny_gguf, tmp_path) == folder
    assert find_gaps(folder) == ()
    assert not leftover.exists()


def test_two_who_convert_the_same_file_do_the_work_once(tiny_gguf: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    folders: list[Path] = []

    def convert() -> None:
        folders.append(
            gguf_to_safetensors(tiny_gguf, tmp_path, lambda stage, *_: stages.append(stage))
        )

    threads = [threading.Thread(target=convert) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert folders[0] == folders[1]
    assert stages.count("Check files") == 1


def test_a_cancelled_conversion_leaves_nothing_behind(tiny_gguf: Path, tmp_path: Path) -> None:
    cancel = threading.Event()

    def progress(stage: str, done_bytes: int, total_bytes: int) -> None:
        if stage == "Write safetensors" and done_bytes == total_bytes:
            cancel.set()

    with pytest.raises(Cancelled):
        gguf_to_safetensors(tiny_gguf, tmp_path, progress, cancel)
    assert [path for path in (tmp_path / "converted").iterdir() if path.is_dir()] == []


def test_a_full_disk_is_noticed_before_the_work(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutOfMemory) as caught:
        gguf_to_safetensors(tiny_gguf, tmp_path)
    assert caught.value.tier == "disk"
    assert caught.value.free_bytes == 1_000


def test_a_damaged_gguf_is_refused_before_it_is_hashed(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:-100])
    with pytest.raises(MalformedModelError):
        gguf_to_safetensors(path, tmp_path)


def test_a_local_folder_is_returned_as_it_is(tiny_llama: Path, resolver: ModelResolver) -> None:
    assert materialize(resolver.resolve(str(tiny_llama))) == tiny_llama


def test_a_local_folder_that_is_gone_is_an_error(tiny_llama: Path, resolver: ModelResolver) -> None:
    resolved = resolver.resolve(str(tiny_llama))
    shutil.rmtree(tiny_llama)
    with pytest.raises(ManagedModelDownloadError, match="does not exist"):
        materialize(resolved)
    with pytest.raises(UnsupportedModelError, match="no such folder"):
        materialize(resolver.resolve(str(tiny_llama)))


def test_gaps_are_named_one_by_one(sharded_llama: Path, resolver: ModelResolver) -> None:
    shards = sorted(sharded_llama.glob("model-*.safetensors"))
    for shard in shards[:2]:
        shard.unlink()
    with pytest.raises(ManagedModelDownloadError) as caught:
        materialize(resolver.resolve(str(sharded_llama)))
    assert caught.value.gaps == tuple(f"{shard} is missing." for shard in shards[:2])
    assert caught.value.folder == sharded_llama


def test_a_hub_snapshot_is_used_in_place(
    tiny_llama: Path, add_to_hub_cache: Callable[..., Path], resolver: ModelResolver
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    assert materialize(resolver.resolve("org/tiny")) == snapshot


def test_forcing_a_download_offline_is_refused_with_the_command(
    tiny_llama: Path, add_to_hub_cache: Callable[..., Path], resolver: ModelResolver
) -> None:
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    with pytest.raises(ManagedModelDownloadError, match="`hf download org/tiny --force-") as caught:
        materialize(resolver.resolve("org/tiny"), force_download=True)
    assert caught.value.message == f"org/tiny is at {snapshot}; it cannot be fetched again offline."


def test_a_model_that_is_not_here_says_where_was_looked_and_how_to_get_it(
    resolver: ModelResolver, private_places: Path
) -> None:
    with pytest.raises(ManagedModelDownloadError) as caught:
        materialize(resolver.resolve("org/name@v2"))
    error = caught.value
    assert error.folder == private_places / "managed" / "org--name--v2"
    assert str(error.folder) in error.message
    assert "the hub cache" in error.message
    assert error.hint == (
        "HF_HUB_OFFLINE is set: download it once with `hf download org/name --revision v2`, "
        "then load again."
    )
    assert not isinstance(error, GatedModelError)


@pytest.mark.parametrize("reference", ["llama3-1B-chat", "meta-llama/Llama-3.2-1B-Instruct@main"])
def test_a_gated_model_says_where_to_ask_and_how_to_log_in(
    resolver: ModelResolver, reference: str
) -> None:
    with pytest.raises(GatedModelError) as caught:
        materialize(resolver.resolve(reference))
    assert "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct" in caught.value.hint
    assert "hf auth login" in caught.value.hint


def test_an_unsafe_model_is_refused_with_its_own_error(
    tiny_llama: Path, edit_config: Callable[..., None], resolver: ModelResolver
) -> None:
    edit_config(tiny_llama, auto_map={"AutoModel": "a.B"})
    with pytest.raises(UnsafeModelError, match="auto_map"):
        materialize(resolver.resolve(str(tiny_llama)))


def test_the_managed_folder_is_named_after_the_repository(
    resolver: ModelResolver, tmp_path: Path
) -> None:
    alias = resolver.resolve("gpt-oss-20B")
    assert managed_folder(alias, tmp_path) == tmp_path / "openai--gpt-oss-20b"
