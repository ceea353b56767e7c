from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub.fixtures import log_in
from tests.hub.server import HubServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 20)
    return folder


def test_the_real_client_downloads_a_snapshot(hub: HubServer, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    hub.add("org/a", folder)
    found = Path(snapshot_download("org/a", endpoint=hub.endpoint))
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_the_real_client_searches_page_by_page(hub: HubServer, folder: Path) -> None:
    from huggingface_hub import HfApi

    for number in range(25):
        hub.add(f"org/tiny-{number}", folder, tags=("safetensors",), downloads=number)
    hub.add("org/other", folder)
    api = HfApi(endpoint=hub.endpoint)
    found = list(api.list_models(search="tiny", sort="downloads", filter="safetensors"))
    assert [model.id for model in found] == [f"org/tiny-{n}" for n in range(24, -1, -1)]
    assert len(list(api.list_models(search="tiny", limit=12))) == 12


def test_the_real_client_hears_of_gates_and_of_what_is_missing(
    hub: HubServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import HfApi, errors

    api = HfApi(endpoint=hub.endpoint)
    hub.add("org/gated", folder, gated="manual")
    hub.add("org/private", folder, private=True)
    assert api.model_info("org/gated").gated == "manual"
    with pytest.raises(errors.GatedRepoError):
        api.hf_hub_download("org/gated", "config.json")
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("org/private")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info("org/gated", revision="v9")
    log_in(hub, monkeypatch)
    assert api.whoami()["name"] == "tester"
    assert api.model_info("org/private").private
    assert Path(api.hf_hub_download("org/gated", "config.json")).is_file()
    assert [file.path for file in api.list_repo_tree("org/gated")] == [
        "config.json",
        "weights.safetensors",
    ]
