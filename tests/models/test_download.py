from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ollm_widgets.errors import (
    ManagedModelDownloadError,
)
from ollm_widgets.models.completeness import find_gaps
from ollm_widgets.models.download import download
from ollm_widgets.models.materialize import materialize
from ollm_widgets.models.resolver import ModelResolver
from tests.hub.contents import Home, both_homes, content_of, folder_at, place, runtime_content
from tests.hub.fixtures import NEVER_FETCHED, WEIGHTS
from tests.hub.server import HubServer

pytestmark = pytest.mark.usefixtures("private_places", "quick_retries")


@both_homes
def test_only_runtime_files_come_and_equal_the_origin(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
    home: Home,
) -> None:
    hub.add("org/tiny", origin)
    told: list[tuple[str, int, int]] = []
    files: dict[str, tuple[int, int]] = {}
    folder = download(
        "org/tiny",
        models_dir=place(home, tmp_path),
        progress=lambda *step: told.append(step),
        file_progress=lambda name, done, total: files.__setitem__(name, (done, total)),
    )
    assert folder == folder_at(home, tmp_path, hub)
    assert content_of(folder) == runtime_content(origin)
    assert find_gaps(folder) == ()
    assert {stage for stage, _, _ in told} == {"Download"}
    in_all = sum(map(len, runtime_content(origin).values()))
    assert told[-1] == ("Download", in_all, in_all)
    assert files == {name: (len(c), len(c)) for name, c in runtime_content(origin).items()}
    assert not [r for r in hub.fetched() if any(name in r.path for name in NEVER_FETCHED)]
    leftovers = [*tmp_path.rglob("*.incomplete"), *tmp_path.rglob("*.download")]
    assert leftovers == []
    hub.log.clear()
    assert download("org/tiny", models_dir=place(home, tmp_path)) == folder
    assert hub.fetched() == []


def test_the_hubs_own_client_finds_what_was_downloaded(hub: HubServer, origin: Path) -> None:
    from huggingface_hub import (
        constants,
        hf_hub_download,
        scan_cache_dir,
        snapshot_download,
        try_to_load_from_cache,
    )

    hub.add("org/tiny", origin)
    folder = download("org/tiny")
    assert try_to_load_from_cache("org/tiny", "config.json") == str(folder / "config.json")
    assert snapshot_download("org/tiny", local_files_only=True) == str(folder)
    (repo,) = scan_cache_dir(constants.HF_HUB_CACHE).repos
    assert repo.nb_files == len(set(runtime_content(origin).values()))
    hub.log.clear()
    assert hf_hub_download("org/tiny", WEIGHTS, endpoint=hub.endpoint) == str(folder / WEIGHTS)
    assert hub.fetched() == []


@both_homes
def test_a_damaged_file_is_fetched_again_and_no_other(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
    home: Home,
) -> None:
    hub.add("org/tiny", origin)
    models_dir = place(home, tmp_path)
    folder = download("org/tiny", models_dir=models_dir)
    for damage in (lambda content: content[:-5], lambda content: content[:-5] + b"abcde"):
        path = Path(os.path.realpath(folder / WEIGHTS))
        path.write_bytes(damage(path.read_bytes()))
        hub.log.clear()
        assert download("org/tiny", models_dir=models_dir) == folder
        assert content_of(folder) == runtime_content(origin)
        assert {request.path.split("/")[-1].split("?")[0] for request in hub.fetched()} == {WEIGHTS}
    (folder / "tokenizer.json").unlink()
    assert find_gaps(folder)
    assert content_of(download("org/tiny", models_dir=models_dir)) == runtime_content(origin)


@both_homes
def test_force_fetches_all_again(hub: HubServer, origin: Path, tmp_path: Path, home: Home) -> None:
    hub.add("org/tiny", origin)
    folder = download("org/tiny", models_dir=place(home, tmp_path))
    hub.log.clear()
    assert download("org/tiny", models_dir=place(home, tmp_path), force=True) == folder
    fetched = {
        r.path.split(hub.repos["org/tiny"].commit + "/")[1].split("?")[0] for r in hub.fetched()
    }
    contents = runtime_content(origin)
    # The cache keeps one blob of files with the same content.
    assert {contents[name] for name in fetched} == set(contents.values())
    assert content_of(folder) == runtime_content(origin)


def test_a_new_version_replaces_the_old_one_whole_or_not_at_all(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
) -> None:
    models_dir = tmp_path / "models"
    repo = hub.add("org/tiny", origin)
    folder = download("org/tiny", models_dir=models_dir)
    before = content_of(folder)
    (origin / "config.json").write_text('{"model_type": "llama", "vocab_size": 9}')
    shutil.copy(origin / WEIGHTS, origin / "model.safetensors")
    (origin / "model.safetensors.index.json").unlink()
    for shard in origin.glob("model-*.safetensors"):
        shard.unlink()
    repo.commit = repo.revisions["main"] = "f" * 40
    fault = hub.fail("status", "model.safetensors", times=1_000)
    with pytest.raises(ManagedModelDownloadError):
        download("org/tiny", models_dir=models_dir)
    assert content_of(folder) == before
    fault.times = 0
    assert content_of(download("org/tiny", models_dir=models_dir)) == runtime_content(origin)


def test_gguf_comes_when_it_is_asked_for_or_alone(
    hub: HubServer,
    tiny_gguf: Path,
    tmp_path: Path,
) -> None:
    origin = tmp_path / "ggufs"
    origin.mkdir()
    shutil.copy(tiny_gguf, origin / "tiny-q8.gguf")
    hub.add("org/one", origin)
    assert (download("org/one") / "tiny-q8.gguf").read_bytes() == tiny_gguf.read_bytes()
    shutil.copy(tiny_gguf, origin / "tiny-f16.gguf")
    hub.add("org/two", origin)
    with pytest.raises(ManagedModelDownloadError, match=r"tiny-f16\.gguf, tiny-q8\.gguf"):
        download("org/two")
    with pytest.raises(ManagedModelDownloadError, match=r"no GGUF file 'x\.gguf'"):
        download("org/two", gguf="x.gguf")
    folder = download("org/two", gguf="tiny-q8.gguf")
    assert [path.name for path in folder.iterdir()] == ["tiny-q8.gguf"]


def test_a_repository_of_one_gguf_is_downloaded_and_converted(
    hub: HubServer, tiny_gguf: Path, tmp_path: Path
) -> None:
    origin = tmp_path / "ggufs"
    origin.mkdir()
    shutil.copy(tiny_gguf, origin / "tiny.gguf")
    hub.add("org/one", origin)
    folder = materialize(ModelResolver().resolve("org/one"))
    assert find_gaps(folder) == ()
    assert (folder / "config.json").is_file()
    assert folder.is_relative_to(tmp_path / "cache")


def test_a_model_that_is_not_here_is_downloaded_when_it_is_materialized(
    hub: HubServer,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add("org/tiny", tiny_llama)
    resolver = ModelResolver()
    stages: list[str] = []
    monkeypatch.delenv("OLLM_MODELS_DIR")
    folder = materialize(
        resolver.resolve("org/tiny"), progress=lambda stage, *_: stages.append(stage)
    )
    assert folder == folder_at("cache", tmp_path, hub)
    assert set(stages) == {"Download"}
    resolved = resolver.resolve("org/tiny")
    assert resolved.model_path == folder
    hub.log.clear()
    assert materialize(resolved) == folder
    assert hub.log == []
    materialize(resolved, force_download=True)
    assert hub.fetched("model.safetensors")
    models_dir = tmp_path / "models"
    managed = materialize(resolver.resolve("org/tiny@main", models_dir), models_dir, True)
    assert managed == models_dir / "org--tiny--main"
    (managed / "config.json").unlink()
    shutil.rmtree(tmp_path / "hf-home")
    assert materialize(resolver.resolve("org/tiny@main", models_dir), models_dir) == managed


def test_the_loader_downloads_and_runs(hub: HubServer, tiny_llama: Path, tmp_path: Path) -> None:
    from ollm_widgets import RuntimeConfig, RuntimeLoader

    hub.add("org/tiny", tiny_llama)
    stages: list[str] = []
    loader = RuntimeLoader()
    config = RuntimeConfig("org/tiny", models_dir=tmp_path / "models", device="cpu")
    plan = loader.plan(config)
    assert plan.needs_files
    assert "Load downloads it" in plan.reason
    assert hub.log == []
    with loader.load(config, progress=lambda step: stages.append(step.stage)) as runtime:
        assert runtime.model_path == tmp_path / "models" / "org--tiny"
    assert "Download" in stages
    assert loader.download("org/tiny", tmp_path / "models") == tmp_path / "models" / "org--tiny"
