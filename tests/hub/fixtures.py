"""The fixture `hub`: the real client, led to a hub on this machine, with a cache of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ollm_widgets.models import hub_requests, transfer
from tests.hub.server import HubServer

NEVER_FETCHED = ("README.md", "modeling_tiny.py", "pytorch_model.bin", "training_args.pt", "x.ckpt")
WEIGHTS = "model-00002-of-00003.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Nobody is logged in; `log_in` of this module changes that."""
    from huggingface_hub import constants

    home = tmp_path / "hf-home"
    with HubServer() as server:
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DOWNLOAD_TIMEOUT": 5,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setenv("HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)
        yield server


def log_in(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Log in as ``huggingface_hub`` does with an environment variable; gives the token."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    return hub.token


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = transfer.RetryPolicy(first_s=0.001, longest_s=0.002)
    for module in (transfer, hub_requests):
        monkeypatch.setattr(module, "RETRY", policy)


@pytest.fixture
def origin(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    """A repository of a few kB in three shards, with files that nobody needs beside it."""
    folder = tmp_path / "origin"
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(json.dumps({"filler": "x" * 3_000}))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    weight_map = {}
    for number in (1, 2, 3):
        shard = f"model-0000{number}-of-00003.safetensors"
        path = write_safetensors(folder / shard, {f"layer.{number}": [40, 8 * number]})
        content = bytearray(path.read_bytes())
        content[-1_000:] = random.Random(number).randbytes(1_000)
        path.write_bytes(bytes(content))
        weight_map[f"layer.{number}"] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name in NEVER_FETCHED:
        (folder / name).write_text("not for us")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.safetensors").write_bytes(b"not for us either")
    return folder
