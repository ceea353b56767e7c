from __future__ import annotations

import json
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ollm_widgets.errors import (
    Cancelled,
    GatedModelError,
    HubUnavailableError,
    ModelReferenceError,
    OllmError,
    UnsafeModelError,
    UnsupportedModelError,
)
from ollm_widgets.models import hub_files
from ollm_widgets.models.inspection import inspect_materialized_model
from ollm_widgets.models.remote import inspect_remote
from ollm_widgets.models.resolver import ModelResolver
from tests.hub.fixtures import log_in
from tests.hub.server import HubServer

EditConfig = Callable[..., None]


@pytest.fixture
def finder(private_places: Path) -> ModelResolver:
    return ModelResolver(hub_cache_dir=private_places / "hub")


def test_a_model_on_the_hub_is_what_its_folder_would_be(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver
) -> None:
    hub.add("org/tiny", tiny_llama, tags=("license:mit",))
    remote = inspect_remote("org/tiny", finder, hub.endpoint)
    local = inspect_materialized_model("org/tiny", tiny_llama, "hugging-face", "org/tiny")
    assert remote.model_path is None
    assert remote.is_downloadable()
    assert remote.shape == local.shape
    assert remote.weights == local.weights
    assert remote.weight_format == "safetensors"
    assert (remote.architecture, remote.model_type) == (local.architecture, local.model_type)
    assert remote.generic_model_kind == local.generic_model_kind
    profile = remote.capabilities
    assert profile.support_level == "optimized"
    assert profile.parameters == local.capabilities.parameters
    assert profile.bytes_on_disk == local.capabilities.bytes_on_disk
    assert profile.has_chat_template is True
    assert (profile.licence, profile.gated) == ("mit", False)
    assert profile.supports_local_materialization
    assert "not on this machine" in remote.resolution_message


def test_no_weights_are_fetched(hub: HubServer, tiny_llama: Path, finder: ModelResolver) -> None:
    hub.add("org/tiny", tiny_llama)
    inspect_remote("org/tiny", finder, hub.endpoint)
    asked = hub.fetched("model.safetensors")
    assert asked
    assert all(request.range == "bytes=0-99999" for request in asked)


def test_no_more_is_asked_for_than_was_allowed(
    hub: HubServer, sharded_llama: Path, finder: ModelResolver
) -> None:
    hub.add("org/tiny", sharded_llama)
    with pytest.raises(HubUnavailableError, match="more than the 100 B that a list reads"):
        inspect_remote("org/tiny", finder, hub.endpoint, limit_bytes=100)
    assert hub.fetched() == []
    assert finder.resolve("org/tiny").weights is None
    plenty = sum(path.stat().st_size for path in sharded_llama.iterdir())
    assert inspect_remote("org/tiny", finder, hub.endpoint, limit_bytes=2 * plenty).weights


def test_who_no_longer_wants_it_ends_the_reading(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver
) -> None:
    hub.add("org/tiny", tiny_llama)
    cancel = threading.Event()
    hub.on_request = lambda _request: cancel.set()
    with pytest.raises(Cancelled, match="Reading org/tiny was cancelled"):
        inspect_remote("org/tiny", finder, hub.endpoint, cancel=cancel)
    assert len(hub.log) == 1
    assert finder.resolve("org/tiny").weights is None


def test_shards_are_read_from_their_headers(
    hub: HubServer, sharded_llama: Path, finder: ModelResolver
) -> None:
    hub.add("org/tiny", sharded_llama)
    remote = inspect_remote("org/tiny", finder, hub.endpoint)
    local = inspect_materialized_model("org/tiny", sharded_llama, "hugging-face")
    assert remote.weights == local.weights
    assert remote.weights is not None
    assert len(remote.weights.files) > 1


def test_a_long_header_takes_a_second_request(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_files, "_FIRST_BYTES", 64)
    hub.add("org/tiny", tiny_llama)
    remote = inspect_remote("org/tiny", finder, hub.endpoint)
    local = inspect_materialized_model("org/tiny", tiny_llama, "hugging-face")
    assert remote.weights == local.weights
    assert len({request.range for request in hub.fetched("model.safetensors")}) == 2


def test_a_plan_can_be_made_before_the_download(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver, private_places: Path
) -> None:
    from ollm_widgets import RuntimeConfig, RuntimeLoader

    hub.add("org/tiny", tiny_llama)
    loader = RuntimeLoader(resolver=finder)
    assert loader.resolve("org/tiny").weights is None
    remote = inspect_remote("org/tiny", finder, hub.endpoint)
    plan = loader.plan(RuntimeConfig("org/tiny", device="cpu", dtype="float32"))
    assert plan.resolved_model.weights == remote.weights
    assert plan.model_path is None
    weights = remote.weights
    assert weights is not None
    planned = sum(tier.layers_bytes + tier.embeddings_bytes for tier in plan.memory.tiers)
    assert planned == 4 * weights.parameters


def test_what_comes_to_this_machine_is_read_from_there(
    hub: HubServer,
    tiny_llama: Path,
    finder: ModelResolver,
    add_to_hub_cache: Callable[..., Path],
) -> None:
    hub.add("org/tiny", tiny_llama)
    inspect_remote("org/tiny", finder, hub.endpoint)
    assert finder.resolve("org/tiny").model_path is None
    snapshot = add_to_hub_cache(tiny_llama, "org/tiny")
    assert finder.resolve("org/tiny").model_path == snapshot


def test_an_alias_is_read_from_its_repository(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver
) -> None:
    hub.add("openai/gpt-oss-20b", tiny_llama)
    remote = inspect_remote("GPT-oss-20b", finder, hub.endpoint)
    assert remote.source_kind == "builtin"
    assert remote.display_name == "gpt-oss-20B"
    assert remote.architecture == "LlamaForCausalLM"
    assert finder.resolve("openai/gpt-oss-20b").weights == remote.weights
    assert finder.resolve("openai/gpt-oss-20b@v1").weights is None


def test_a_revision_is_asked_for(hub: HubServer, tiny_llama: Path, finder: ModelResolver) -> None:
    repo = hub.add("org/tiny", tiny_llama)
    repo.revisions["v1"] = "ab" * 20
    assert inspect_remote("org/tiny@v1", finder, hub.endpoint).revision == "v1"
    with pytest.raises(UnsupportedModelError, match="org/tiny has no revision 'v2'"):
        inspect_remote("org/tiny@v2", finder, hub.endpoint)


def test_the_only_gguf_file_is_read_from_its_header(
    hub: HubServer, tiny_gguf: Path, tmp_path: Path, finder: ModelResolver
) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    shutil.copy(tiny_gguf, folder)
    hub.add("org/tiny-gguf", folder)
    remote = inspect_remote("org/tiny-gguf", finder, hub.endpoint)
    local = inspect_materialized_model("x", tiny_gguf, "local-path")
    assert remote.model_path is None
    assert remote.weight_format == "gguf"
    assert (remote.shape, remote.weights) == (local.shape, local.weights)
    assert remote.is_supported()
    shutil.copy(tiny_gguf, folder / "other.gguf")
    several = inspect_remote("org/tiny-gguf", finder, hub.endpoint)
    assert not several.is_supported()
    assert "2 GGUF files (other.gguf, tiny.gguf)" in several.resolution_message


def test_gating_is_told_and_closed_files_are_an_error(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/gated", tiny_llama, gated="manual")
    with pytest.raises(GatedModelError, match="licence") as caught:
        inspect_remote("org/gated", finder, hub.endpoint)
    assert f"{hub.endpoint}/org/gated" in caught.value.hint
    assert "hf auth login" in caught.value.hint
    log_in(hub, monkeypatch)
    assert inspect_remote("org/gated", finder, hub.endpoint).capabilities.gated is True


def test_what_the_hub_does_not_have_is_named(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver
) -> None:
    hub.add("org/private", tiny_llama, private=True)
    for name in ("org/nothing", "org/private"):
        with pytest.raises(UnsupportedModelError, match=f"no model {name} that you may see"):
            inspect_remote(name, finder, hub.endpoint)


def test_what_is_no_hub_model_is_refused(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver
) -> None:
    with pytest.raises(UnsupportedModelError, match="not on the hub"):
        inspect_remote(tiny_llama, finder, hub.endpoint)
    with pytest.raises(UnsupportedModelError, match="Nothing was found"):
        inspect_remote("no-such-model", finder, hub.endpoint)
    with pytest.raises(ModelReferenceError):
        inspect_remote("", finder, hub.endpoint)
    assert not hub.log


def test_offline_is_an_error_at_once(
    hub: HubServer, finder: ModelResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailableError, match="HF_HUB_OFFLINE is set") as caught:
        inspect_remote("org/tiny", finder, hub.endpoint)
    assert caught.value.host == hub.endpoint.removeprefix("http://")
    assert caught.value.host in caught.value.message
    assert "Unset HF_HUB_OFFLINE" in caught.value.hint
    assert not hub.log


def test_an_unreachable_hub_is_an_error_that_names_the_host(finder: ModelResolver) -> None:
    with HubServer() as gone:
        endpoint = gone.endpoint
    with pytest.MonkeyPatch.context() as patch:
        from huggingface_hub import constants

        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        with pytest.raises(HubUnavailableError, match="cannot be reached") as caught:
            inspect_remote("org/tiny", finder, endpoint)
    assert caught.value.host == endpoint.removeprefix("http://")
    assert "Check the connection" in caught.value.hint


@pytest.mark.parametrize("path", ["/api/models", "config.json", "/cdn/"])
def test_no_error_repeats_the_token(
    hub: HubServer,
    tiny_llama: Path,
    finder: ModelResolver,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    token = log_in(hub, monkeypatch)
    hub.add("org/tiny", tiny_llama)
    hub.fail("status", path, status=500, times=50)
    with pytest.raises(HubUnavailableError) as caught:
        inspect_remote("org/tiny", finder, hub.endpoint)
    error: BaseException | None = caught.value
    assert token not in str(error)
    assert "signature" not in str(error)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("name", "content", "kind", "text"),
    [
        ("config.json", b"{", "malformed", "not valid JSON"),
        ("config.json", b"[]", "malformed", "not an object"),
        ("config.json", b'{"a": "' + b"x" * 10_000_000 + b'"}', "unsafe", "at most 10,000,000"),
        ("model.safetensors", b"\xff" * 200, "malformed", "announces a header"),
        ("model.safetensors", b"", "malformed", "too few"),
        ("model.safetensors", struct.pack("<Q", 2) + b"{}x", "malformed", "1 bytes after"),
    ],
)
def test_damaged_files_are_told_like_those_of_a_folder(
    hub: HubServer,
    tiny_llama: Path,
    finder: ModelResolver,
    name: str,
    content: bytes,
    kind: str,
    text: str,
) -> None:
    hub.add("org/tiny", tiny_llama, extra_files={name: content})
    remote = inspect_remote("org/tiny", finder, hub.endpoint)
    assert not remote.is_supported()
    assert remote.problem == kind
    assert text in remote.resolution_message
    assert f"org/tiny/{name}" in remote.resolution_message


def test_pickle_and_code_are_unsafe_before_anything_is_downloaded(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver, edit_config: EditConfig
) -> None:
    edit_config(tiny_llama, auto_map={"AutoModel": "own.Own"})
    hub.add("org/code", tiny_llama)
    assert isinstance(inspect_remote("org/code", finder, hub.endpoint).refusal(), UnsafeModelError)
    (tiny_llama / "model.safetensors").rename(tiny_llama / "pytorch_model.bin")
    hub.add("org/pickle", tiny_llama)
    pickle = inspect_remote("org/pickle", finder, hub.endpoint)
    assert "pytorch_model.bin" in pickle.resolution_message


def test_an_index_that_leaves_the_repository_is_unsafe(
    hub: HubServer, sharded_llama: Path, finder: ModelResolver
) -> None:
    path = sharded_llama / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    hub.add("org/tiny", sharded_llama)
    remote = inspect_remote("org/tiny", finder, hub.endpoint)
    assert isinstance(remote.refusal(), UnsafeModelError)


def test_a_missing_shard_or_tokenizer_is_a_gap(
    hub: HubServer, sharded_llama: Path, finder: ModelResolver
) -> None:
    next(iter(sorted(sharded_llama.glob("model-*")))).unlink()
    (sharded_llama / "tokenizer.json").unlink()
    hub.add("org/tiny", sharded_llama)
    model = inspect_remote("org/tiny", finder, hub.endpoint)
    assert model.resolution_message.startswith("org/tiny is incomplete on 127.0.0.1")
    profile = model.capabilities
    assert not profile.supports_local_materialization
    reason = profile.reason_for("supports_local_materialization")
    assert reason is not None
    assert "is missing" in reason
    assert "no tokenizer" in reason


@pytest.mark.parametrize("kind", ["drop", "short", "long"])
def test_a_connection_that_breaks_is_an_error_of_ours(
    hub: HubServer, tiny_llama: Path, finder: ModelResolver, kind: str
) -> None:
    hub.add("org/tiny", tiny_llama)
    hub.fail(kind, "model.safetensors", at_byte=20, times=50)  # type: ignore[arg-type]
    if kind == "long":
        # What is needed has come by then.
        assert inspect_remote("org/tiny", finder, hub.endpoint).is_supported()
        return
    try:
        remote = inspect_remote("org/tiny", finder, hub.endpoint)
    except OllmError as error:
        assert isinstance(error, HubUnavailableError)  # noqa: PT017  (either way is right)
        return
    assert remote.problem == "malformed"
