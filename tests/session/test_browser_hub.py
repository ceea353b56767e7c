from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from ollm_widgets import Session
from ollm_widgets.protocol.snapshot import ModelItem
from ollm_widgets.protocol.views import view_models
from ollm_widgets.session import hub_verdicts
from tests.hub.fixtures import hub
from tests.hub.repos import Request
from tests.hub.server import HubServer
from tests.session.waiting import until

__all__ = ["hub"]

FOUND = ("safetensors",)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub_verdicts, "_PAUSE_S", 0)
    monkeypatch.setenv("OLLM_CACHE_DIR", str(tmp_path / "cache"))


def rows(session: Session) -> dict[str, ModelItem]:
    view = view_models(session)
    return {item.name: item for item in view.items if item.group == "On the hub"}


def search(session: Session, text: str, count: int) -> dict[str, ModelItem]:
    """Search the hub, and wait for its list."""
    session.browser.search(text)
    until(session, lambda: not session.browser.searching and len(rows(session)) == count)
    return rows(session)


def until_verdict(session: Session, *names: str) -> None:
    until(session, lambda: all(rows(session)[name].verdict.text != "on the hub" for name in names))


def test_a_model_on_the_hub_gets_its_verdict_without_its_weights(
    session: Session, hub: HubServer, saved_llama: Path
) -> None:
    hub.add("org/little", saved_llama, tags=FOUND)
    search(session, "little", 1)
    until_verdict(session, "org/little")
    item = rows(session)["org/little"]
    assert item.verdict.text.startswith("fits")
    assert item.verdict.tone == "warn"  # its files are not here
    assert not item.available
    assert "parameters" in item.facts
    asked = hub.fetched("safetensors")
    assert asked
    assert all(request.range is not None for request in asked)


def test_the_chip_says_on_the_hub_until_the_verdict_is_known(
    session: Session, hub: HubServer, saved_llama: Path
) -> None:
    hub.add("org/little", saved_llama, tags=FOUND)
    held = hub.fail("wait", "config.json")
    (item,) = search(session, "little", 1).values()
    assert held.reached.wait(10)
    assert (item.verdict.text, item.verdict.tone) == ("on the hub", "neutral")
    held.release.set()
    until_verdict(session, "org/little")


def test_a_model_that_is_gated_or_broken_says_so_and_blocks_no_other(
    session: Session, hub: HubServer, saved_llama: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(saved_llama, tmp_path / "broken"))
    (broken / "config.json").write_text("{")
    hub.add("org/x-gated", saved_llama, gated="manual", tags=FOUND)
    hub.add("org/x-broken", broken, tags=FOUND)
    hub.add("org/x-open", saved_llama, tags=FOUND)
    hub.fail("status", "models/org/x-failing", status=500, times=99)
    hub.add("org/x-failing", saved_llama, tags=FOUND)
    search(session, "x-", 4)
    until_verdict(session, "org/x-open", "org/x-broken")
    until(session, lambda: rows(session)["org/x-gated"].reason)
    until(session, lambda: rows(session)["org/x-failing"].reason)
    found = rows(session)
    assert found["org/x-open"].verdict.text.startswith("fits")
    assert found["org/x-gated"].verdict.text == "on the hub"
    assert found["org/x-gated"].verdict.tone == "warn"
    assert "licence to be accepted" in found["org/x-gated"].reason
    assert "did not answer" in found["org/x-failing"].reason
    assert found["org/x-broken"].verdict.text == "cannot run"
    assert "config.json" in found["org/x-broken"].reason


def test_at_most_three_models_are_read_at_once(
    session: Session, hub: HubServer, saved_llama: Path
) -> None:
    busy: list[str] = []
    most: list[int] = []
    lock, too_many = threading.Lock(), threading.Event()

    def on_request(request: Request) -> None:
        if "/models/org/many" not in request.path:
            return
        with lock:
            busy.append(request.path)
            most.append(len(busy))
            if len(busy) > hub_verdicts.MOST_AT_ONCE:
                too_many.set()
        too_many.wait(0.3)  # for one that should not come meanwhile
        with lock:
            busy.remove(request.path)

    names = [f"org/many-{number}" for number in range(6)]
    for name in names:
        hub.add(name, saved_llama, tags=FOUND)
    hub.on_request = on_request
    search(session, "many", 6)
    until_verdict(session, *names)
    assert max(most) == hub_verdicts.MOST_AT_ONCE


def test_another_search_ends_the_reading_of_the_last_one(
    session: Session, hub: HubServer, saved_llama: Path
) -> None:
    for number in range(8):
        hub.add(f"org/old-{number}", saved_llama, tags=FOUND)
    hub.add("org/new", saved_llama, tags=FOUND)
    held = [hub.fail("wait", "config.json") for _ in range(hub_verdicts.MOST_AT_ONCE)]
    search(session, "old-", 8)
    for fault in held:
        assert fault.reached.wait(10)
    search(session, "new", 1)
    hub.release()
    until_verdict(session, "org/new")
    asked = {request.path.split("/resolve/")[0] for request in hub.fetched("config.json")}
    assert len([path for path in asked if "org/old" in path]) == hub_verdicts.MOST_AT_ONCE
    assert set(rows(session)) == {"org/new"}


def test_what_was_read_is_remembered(session: Session, hub: HubServer, saved_llama: Path) -> None:
    hub.add("org/little", saved_llama, tags=FOUND)
    search(session, "little", 1)
    until_verdict(session, "org/little")
    before = len(hub.fetched())
    session.browser.search("")
    search(session, "litt", 1)
    until_verdict(session, "org/little")
    assert len(hub.fetched()) == before


def test_a_model_whose_headers_are_too_many_is_left_on_the_hub(
    session: Session, hub: HubServer, saved_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_verdicts, "MOST_BYTES_OF_A_MODEL", 2_000)
    hub.add("org/little", saved_llama, tags=FOUND)
    search(session, "little", 1)
    until(session, lambda: rows(session)["org/little"].reason)
    item = rows(session)["org/little"]
    assert "more than the 2.0 kB that a list reads" in item.reason
    assert item.verdict.text == "on the hub"


def test_nothing_is_asked_before_somebody_searches(
    session: Session, hub: HubServer, saved_llama: Path
) -> None:
    hub.add("HuggingFaceTB/SmolLM2-135M-Instruct", saved_llama, tags=FOUND)
    session.browser.refresh()
    until(session, lambda: not session.browser.searching)
    view_models(session)
    assert hub.log == []
