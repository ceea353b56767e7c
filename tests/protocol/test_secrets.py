"""The login of the hub stays where huggingface_hub keeps it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ollm_widgets import RuntimeLoader, RuntimeManager, Session
from tests.hub.fixtures import log_in
from tests.hub.server import HubServer
from tests.protocol.page import Page


@pytest.mark.parametrize("reference", ["org/open", "org/gated", "org/absent"])
def test_the_token_is_in_no_message_snapshot_log_or_representation(
    hub: HubServer,
    saved_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    reference: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.add("org/open", saved_llama, tags=("safetensors",))
    hub.add("org/gated", saved_llama, gated="manual", tags=("safetensors",))
    token = log_in(hub, monkeypatch)
    manager = RuntimeManager(RuntimeLoader())
    session = Session(manager)
    with Page(session) as page:
        page.ask("hello")
        page.until(lambda: page.events("snapshot"))
        page.ask("search", text=reference.split("/")[1])
        page.ask("choose", reference=reference)
        page.until(lambda: page.drawn["plan"] and page.drawn["plan"]["reason"])
        if reference == "org/open":
            page.until(lambda: page.drawn["loading"]["can_load"])
            page.ask("load", anyway=False)
            page.until(lambda: page.drawn["loading"]["state"] == "loaded")
        told = json.dumps([page.messages, page.published])
        assert session.plan is not None
        shown = [repr(vars(session)), repr(session.plan), session.plan.to_html()]
    session.close()
    manager.unload_all(force=True)
    printed = capfd.readouterr()
    assert token
    for text in (told, *shown, caplog.text, printed.out, printed.err):
        assert token not in text
