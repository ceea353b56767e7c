from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ollm_widgets.errors import Cancelled
from ollm_widgets.models import hub_search
from ollm_widgets.models.found import FoundModel
from ollm_widgets.models.hub_search import describe_listed
from tests.hub.fixtures import log_in
from tests.hub.server import HubServer, Request
from tests.models.searching import Search, models_dir, references, search  # noqa: F401

# Fixtures that are imported look like names that a parameter hides.
# ruff: noqa: F811

AddToHubCache = Callable[..., Path]


def test_the_hubs_models_follow_page_by_page(
    hub: HubServer, search: Search, tiny_llama: Path
) -> None:
    for number in range(25):
        hub.add(f"org/tiny-{number}", tiny_llama, tags=("safetensors",), downloads=number)
    hub.add("org/pickled-tiny", tiny_llama)
    everything = [f"org/tiny-{number}" for number in range(24, -1, -1)]
    first = search("tiny", page_size=10)
    assert references(first) == everything[:10]
    assert first.has_more
    assert {model.where for model in first.items} == {"hub"}
    assert first.items[0].downloads == 24
    assert first.items[0].likes == 0
    assert first.items[0].task == "text-generation"
    lists = [request for request in hub.log if "/api/models" in request.path]
    assert len([request for request in lists if request.method == "GET"]) == 2
    assert references(search("tiny", page_size=10, page=2)) == everything[10:20]
    last = search("tiny", page_size=10, page=3)
    assert references(last) == everything[20:]
    assert not last.has_more
    assert search("tiny", page_size=10, page=4).items == ()


def test_what_is_on_this_machine_is_not_listed_again(
    hub: HubServer, search: Search, tiny_llama: Path, add_to_hub_cache: AddToHubCache
) -> None:
    add_to_hub_cache(tiny_llama, "org/tiny-here")
    for name in ("org/tiny-here", "Org/Tiny-Here", "org/tiny-there"):
        hub.add(name, tiny_llama, tags=("safetensors",))
    page = search("tiny")
    assert references(page) == ["org/tiny-here", "org/tiny-there"]
    assert [model.where for model in page.items] == ["hub cache", "hub"]
    elsewhere = search("tiny", where=("hub",))
    assert {model.where for model in elsewhere.items} == {"hub"}
    assert {model.reference: model.downloaded for model in elsewhere.items}["org/tiny-here"]


def test_the_hub_is_not_asked_while_the_page_is_full_of_local_models(
    hub: HubServer, search: Search
) -> None:
    page = search(page_size=3)
    assert len(page.items) == 3
    assert page.has_more
    assert not hub.log


def test_a_hub_that_fails_leaves_the_local_models(
    hub: HubServer, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = log_in(hub, monkeypatch)
    hub.fail("status", "/api/models", status=400, times=50)
    page = search("gpt-oss")
    assert references(page) == ["gpt-oss-20B"]
    assert hub.endpoint.removeprefix("http://") in page.hub_problem
    assert token not in page.hub_problem


def test_offline_is_said_and_the_local_models_still_come(
    hub: HubServer, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    page = search("gpt-oss")
    assert references(page) == ["gpt-oss-20B"]
    assert "HF_HUB_OFFLINE is set" in page.hub_problem
    assert not hub.log


def test_a_hub_that_is_gone_is_said(
    hub: HubServer, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with HubServer() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.endpoint)
    page = search("gpt-oss")
    assert len(page.items) == 1
    assert "cannot be reached" in page.hub_problem


@pytest.fixture
def silent_hub(hub: HubServer) -> Iterator[threading.Event]:
    """A hub that answers no list until the test ends; set once it was asked."""
    asked, release = threading.Event(), threading.Event()

    def wait(request: Request) -> None:
        if request.method == "GET" and "/api/models" in request.path:
            asked.set()
            release.wait(20)

    hub.on_request = wait
    yield asked
    release.set()


def test_a_hub_that_says_nothing_can_be_cancelled(
    silent_hub: threading.Event, search: Search
) -> None:
    with pytest.raises(Cancelled):
        search("tiny", cancel=silent_hub)


def test_a_hub_that_says_nothing_is_not_waited_for(
    silent_hub: threading.Event, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_search, "PATIENCE_S", 0.3)
    page = search("gpt-oss")
    assert references(page) == ["gpt-oss-20B"]
    assert "did not list models" in page.hub_problem
    assert silent_hub.is_set()


def test_what_the_hub_lists_carries_size_licence_and_gate() -> None:
    from huggingface_hub import ModelInfo

    info = ModelInfo(
        id="org/model",
        downloads=7,
        likes=3,
        gated="auto",
        pipeline_tag="image-text-to-text",
        tags=["safetensors", "license:gemma"],
        safetensors={"parameters": {"BF16": 1_000, "F32": 10}, "total": 1_010},
    )
    assert describe_listed(info) == FoundModel(
        reference="org/model",
        name="org/model",
        where="hub",
        repo_id="org/model",
        parameters=1_010,
        bytes_on_disk=2_040,
        task="image-text-to-text",
        modalities=("text", "image"),
        licence="gemma",
        gated=True,
        downloads=7,
        likes=3,
    )
    assert describe_listed(ModelInfo(id="org/bare", tags=[])).bytes_on_disk is None
