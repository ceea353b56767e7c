"""From a search on the hub to an answer, in a real page, against a hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab
from tests.browser.test_workbench import (
    LONG_S,
    QUESTION,
    ask,
    last_answer,
    open_workbench,
    region,
)
from tests.hub.server import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def lab(hub: HubServer, tmp_path: Path, chromium: Browser) -> Iterator[Lab]:
    """JupyterLab whose kernels know that hub, with a cache of their own."""
    variables = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_HUB_DISABLE_XET": "1",
        "OLLM_MODELS_DIR": str(tmp_path / "models"),
    }
    server = JupyterServer(tmp_path / "home", variables=variables)
    lab = Lab(server, chromium)
    yield lab
    lab.close_notebooks()
    server.stop()


def test_a_model_is_found_planned_downloaded_talked_to_and_deleted(
    lab: Lab, hub: HubServer, converted_smollm: Path
) -> None:
    hub.add("org/little-chat", converted_smollm, tags=("safetensors",))
    notebook, workbench = open_workbench(lab)
    models, plan, loading = (region(workbench, name) for name in ("Models", "Plan", "Loading"))
    workbench.get_by_label("Search models").fill("little-chat")
    found = models.get_by_role("option", name="org/little-chat", exact=True)
    expect(found).to_be_visible(timeout=LONG_S)
    found.click()
    # Headers alone: the plan is exact before a byte of weights is fetched.
    expect(plan).to_contain_text("30 (auto)", timeout=LONG_S)
    assert not [one for one in hub.fetched("safetensors") if one.method == "GET" and not one.range]
    notebook.screenshot("hub-planned")
    loading.get_by_role("button", name="Load", exact=True).click()
    expect(loading.get_by_role("progressbar", name="Download")).to_be_visible(timeout=LONG_S)
    expect(loading).to_contain_text("was loaded in", timeout=LONG_S)
    ask(workbench, QUESTION)
    expect(last_answer(workbench)).to_contain_text("Paris", timeout=LONG_S)
    notebook.screenshot("hub-loaded")

    memory = region(workbench, "In memory")
    expect(memory).to_contain_text("used just now", timeout=LONG_S)
    memory.get_by_role("button", name="Unload", exact=True).click()
    expect(memory).to_contain_text("Nothing is loaded yet")
    models.get_by_role("button", name="Delete", exact=True).click()
    question = models.get_by_role("alertdialog")
    expect(question).to_contain_text("This frees")
    notebook.screenshot("hub-deletion")
    question.get_by_role("button", name="Delete files", exact=True).click()
    expect(plan).to_contain_text("not on this machine", timeout=LONG_S)


def test_a_gated_model_says_where_to_ask_and_nothing_is_lost(
    lab: Lab, hub: HubServer, saved_llama: Path
) -> None:
    hub.add("org/gated-model", saved_llama, gated="manual", tags=("safetensors",))
    _notebook, workbench = open_workbench(lab)
    workbench.get_by_label("Search models").fill("org/gated-model")
    region(workbench, "Models").get_by_role(
        "option", name="org/gated-model", exact=True
    ).first.click(timeout=LONG_S)
    expect(region(workbench, "Plan")).to_contain_text("hf auth login", timeout=LONG_S)
    workbench.get_by_label("Search models").fill("smollm")
    workbench.get_by_role("option", name="smollm2-135m", exact=True).click()
    load = region(workbench, "Loading").get_by_role("button", name="Load", exact=True)
    expect(load).to_be_enabled()
