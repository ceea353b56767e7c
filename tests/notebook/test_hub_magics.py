"""``%ollm search|info|download|rm`` against a hub on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from tests.hub.server import HubServer
from tests.notebook.conftest import Kernel


@pytest.fixture(scope="module")
def hub(saved_llama: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add("org/tiny-llama", saved_llama, tags=("safetensors",))
        yield server


@pytest.fixture(scope="module")
def online_kernel(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel that knows that hub, with places of its own."""
    home = tmp_path_factory.mktemp("online")
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(home / "hub-cache"),
        "HF_HUB_DISABLE_XET": "1",
        "OLLM_MODELS_DIR": str(home / "models"),
    }
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(Path(__file__).parents[2]), env=environment)
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    kernel = Kernel(manager, client)
    assert kernel.run("%load_ext ollm").status == "ok"
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_model_is_found_described_downloaded_loaded_and_deleted(
    online_kernel: Kernel, hub: HubServer
) -> None:
    (found,) = online_kernel.run("%ollm search tiny-llama").results
    assert "org/tiny-llama" in found["text/plain"]
    (described,) = online_kernel.run("%ollm info org/tiny-llama").results
    assert "LlamaForCausalLM" in described["text/plain"]
    assert not [one for one in hub.fetched("safetensors") if not one.range]
    downloaded = online_kernel.run("%ollm download org/tiny-llama")
    assert downloaded.status == "ok", downloaded.error
    assert "org/tiny-llama is at " in downloaded.printed
    loaded = online_kernel.run("%ollm load org/tiny-llama")
    assert loaded.status == "ok", loaded.error
    refused = online_kernel.run("%ollm rm org/tiny-llama --yes")
    assert "Unload it first" in refused.error
    online_kernel.run("%ollm unload")
    unasked = online_kernel.run("%ollm rm org/tiny-llama")
    assert "--yes" in unasked.error
    deleted = online_kernel.run("%ollm rm org/tiny-llama --yes")
    assert deleted.status == "ok", deleted.error
    assert "freed" in deleted.printed
    again = online_kernel.run("%ollm rm org/tiny-llama --yes")
    assert "nothing to delete" in again.error


def test_what_the_hub_does_not_have_is_one_line(online_kernel: Kernel) -> None:
    outcome = online_kernel.run("%ollm download org/absent")
    assert outcome.error.startswith("UsageError: ")
    assert "org/absent" in outcome.error
    assert len(outcome.error.strip().splitlines()) == 1
