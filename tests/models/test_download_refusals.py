from __future__ import annotations

import errno
import json
import logging
import shutil
from pathlib import Path

import pytest

from ollm_widgets.errors import (
    GatedModelError,
    MalformedModelError,
    ManagedModelDownloadError,
    OutOfMemory,
    UnsafeModelError,
)
from ollm_widgets.models.download import download
from tests.hub.contents import Home, both_homes, content_of, place, runtime_content
from tests.hub.fixtures import log_in
from tests.hub.server import HubServer

pytestmark = pytest.mark.usefixtures("private_places", "quick_retries")


def test_what_may_not_be_had_says_why_and_what_to_do(
    hub: HubServer,
    origin: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add("org/gated", origin, gated="manual")
    hub.add("org/private", origin, private=True)
    hub.add("org/tiny", origin)
    with pytest.raises(GatedModelError, match=f"{hub.endpoint}/org/gated.*hf auth login"):
        download("org/gated")
    with pytest.raises(ManagedModelDownloadError, match=r"no repository org/private.*auth login"):
        download("org/private")
    with pytest.raises(ManagedModelDownloadError, match="no repository org/absent"):
        download("org/absent")
    with pytest.raises(ManagedModelDownloadError, match="org/tiny has no revision 'v9'"):
        download("org/tiny", "v9")
    for name in ("../tiny", "tiny/..", "a/b/c", "org/ti ny", ""):
        with pytest.raises(ManagedModelDownloadError, match="names no repository"):
            download(name)
    for revision in ("../../up", "a/../b", "/root", "a\\b"):
        with pytest.raises(ManagedModelDownloadError, match="names no repository"):
            download("org/tiny", revision)
    log_in(hub, monkeypatch)
    assert download("org/gated")
    assert download("org/private")
    hub.granted = False
    with pytest.raises(GatedModelError, match="licence"):
        download("org/gated", force=True)


def test_the_token_is_sent_and_nowhere_told(
    hub: HubServer,
    origin: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    token = log_in(hub, monkeypatch)
    hub.add("org/private", origin, private=True)
    download("org/private")
    assert all(r.authorized for r in hub.log)
    texts = [caplog.text]
    fault = hub.fail("status", "", status=418, times=1_000)
    for repo_id in ("org/private", "org/absent"):
        with pytest.raises(ManagedModelDownloadError) as caught:
            download(repo_id, force=True)
        fault.times = 0
        chain: BaseException | None = caught.value
        while chain is not None:
            texts += [str(chain), repr(chain)]
            chain = chain.__cause__ or chain.__context__
    texts.append(caplog.text)
    assert not [text for text in texts if token in text]


def test_a_full_disk_is_noticed_first(
    hub: HubServer,
    origin: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.add("org/tiny", origin)
    usage = shutil.disk_usage(origin)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutOfMemory) as caught:
        download("org/tiny")
    assert (caught.value.tier, caught.value.free_bytes) == ("disk", 1_000)
    assert hub.fetched() == []


def test_a_disk_that_fills_up_is_an_error_and_the_rest_comes_later(
    hub: HubServer, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", origin)
    with monkeypatch.context() as patch:

        def full(_self: Path, _target: Path) -> Path:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(Path, "replace", full)
        with pytest.raises(OutOfMemory) as caught:
            download("org/tiny")
    assert caught.value.tier == "disk"
    assert content_of(download("org/tiny")) == runtime_content(origin)


def test_a_place_that_cannot_be_written_is_an_error_of_ours(
    hub: HubServer, origin: Path, tmp_path: Path
) -> None:
    hub.add("org/tiny", origin)
    (tmp_path / "file").write_text("")
    with pytest.raises(ManagedModelDownloadError, match="cannot be put at"):
        download("org/tiny", models_dir=tmp_path / "file" / "models")


def test_pickle_and_code_are_refused_before_weights_come(hub: HubServer, origin: Path) -> None:
    for path in origin.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    hub.add("org/pickle", origin)
    with pytest.raises(UnsafeModelError, match="pickle"):
        download("org/pickle")
    assert hub.fetched() == []
    for path in origin.glob("model*.bin"):
        path.rename(path.with_suffix(".safetensors"))
    (origin / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "a.B"}}')
    hub.add("org/code", origin)
    with pytest.raises(UnsafeModelError, match="auto_map"):
        download("org/code")
    assert hub.fetched(".safetensors?") == []


@pytest.mark.parametrize(
    "name", ["../config.json", "/etc/config.json", "a/../../b.json", "a\\b.json", "c:x.json", "a\n"]
)
@both_homes
def test_names_that_leave_the_folder_are_refused(
    hub: HubServer,
    origin: Path,
    tmp_path: Path,
    home: Home,
    name: str,
) -> None:
    hub.add("org/tiny", origin, extra_files={name: b"{}"})
    with pytest.raises(UnsafeModelError, match="outside"):
        download("org/tiny", models_dir=place(home, tmp_path))
    assert hub.fetched() == []


def test_an_index_that_names_what_is_outside_or_absent_is_refused(
    hub: HubServer,
    origin: Path,
) -> None:
    index = origin / "model.safetensors.index.json"
    for shard, error in [
        ("../../x.safetensors", UnsafeModelError),
        ("model-9.safetensors", ManagedModelDownloadError),
    ]:
        index.write_text(json.dumps({"weight_map": {"a": shard}}))
        hub.add("org/tiny", origin)
        with pytest.raises(error, match=shard.replace(".", r"\.")):
            download("org/tiny")
    index.write_text("[]")
    hub.add("org/tiny", origin)
    with pytest.raises(MalformedModelError):
        download("org/tiny")


def test_offline_and_unreachable_are_said_at_once(
    hub: HubServer,
    origin: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    hub.add("org/tiny", origin)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ManagedModelDownloadError, match=r"HF_HUB_OFFLINE.*`hf download org/tiny`"):
        download("org/tiny")
    assert hub.log == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ManagedModelDownloadError, match=r"127\.0\.0\.1:9 cannot be reached.*`hf download org/tiny"
    ):
        download("org/tiny")
