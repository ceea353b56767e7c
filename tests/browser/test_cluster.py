"""The workbench over a real Ray cluster: as it is with a model of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab import Lab, NotebookPage
from tests.browser.ray_nodes import two_nodes
from tests.browser.test_workbench import (
    LONG_S,
    QUESTION,
    ask,
    last_answer,
    pick,
    record_growth,
    region,
    send_button,
    stop_button,
)

pytestmark = pytest.mark.ray

pytest.importorskip("ray", reason="Ray is not installed; `make setup` installs it")

STORY = "Tell me a very long story about a lighthouse."
SOME_OF_IT = re.compile(r"[\s\S]{60}")
NODE = re.compile(r"node-[ab]")
SETUP = """\
%load_ext ollm
from ollm_widgets import default_session
%ollm config cluster={address}
"""
SOON_S = 1000  # Playwright counts in milliseconds


@pytest.fixture(scope="module")
def address(converted_smollm: Path) -> Iterator[str]:
    """The address of two nodes, on which nobody has started anything yet."""
    with two_nodes() as address:
        yield address


def open_on_cluster(lab: Lab, address: str) -> tuple[NotebookPage, Locator]:
    notebook = lab.open_notebook([SETUP.format(address=address), "%ollm", "%ollm cluster"])
    return notebook, run_first_cells(notebook)


def run_first_cells(notebook: NotebookPage) -> Locator:
    notebook.run_cell(0)
    expect(notebook.output(0)).to_contain_text("cluster is 127.0.0.2:")
    notebook.run_cell(1)
    workbench = region(notebook.cell(1), "Workbench")
    expect(workbench).to_be_visible()
    pick(workbench, "smollm", "smollm2-135m")
    region(workbench, "Plan").get_by_label("Device").select_option("ray")
    return workbench


def press_load(workbench: Locator) -> None:
    region(workbench, "Loading").get_by_role("button", name="Load", exact=True).click()


def in_memory(workbench: Locator) -> Locator:
    shelf = region(workbench, "In memory")
    return shelf.get_by_role("listitem", name="smollm2-135m", exact=True)


def test_a_model_on_a_node_loads_streams_stops_and_leaves_as_one_of_this_machine(
    lab: Lab, address: str
) -> None:
    notebook, workbench = open_on_cluster(lab, address)
    plan, loading = region(workbench, "Plan"), region(workbench, "Loading")
    expect(plan).to_contain_text("No node has a host for models yet", timeout=LONG_S)
    notebook.screenshot("cluster-planned")
    press_load(workbench)
    expect(loading.get_by_role("progressbar", name="Start the hosts")).to_be_visible(timeout=LONG_S)
    notebook.screenshot("cluster-starting")
    expect(loading.get_by_role("progressbar", name="Read weights")).to_be_visible(timeout=LONG_S)
    notebook.screenshot("cluster-loading")
    expect(loading).to_contain_text("was loaded in", timeout=LONG_S)
    expect(plan).to_contain_text(NODE)
    expect(in_memory(workbench)).to_contain_text(re.compile(r"on node-[ab]"))
    notebook.screenshot("cluster-loaded")

    record_growth(workbench)
    ask(workbench, QUESTION)
    expect(last_answer(workbench)).to_contain_text("Paris", timeout=LONG_S)
    expect(send_button(workbench)).to_be_visible(timeout=LONG_S)
    assert notebook.page.evaluate("window.lengths.size") > 2, "the text came in one piece"
    activity = region(workbench, "Activity")
    expect(activity).to_contain_text(re.compile(r"Answer 1 of smollm2-135m: \d+ tokens"))

    ask(workbench, STORY)
    expect(last_answer(workbench)).to_contain_text(SOME_OF_IT, timeout=LONG_S)
    expect(in_memory(workbench)).to_contain_text("answering")
    notebook.screenshot("cluster-answers")
    stop_button(workbench).click()
    expect(last_answer(workbench)).to_contain_text("stopped", timeout=SOON_S)
    in_flight = notebook.kernel_eval(
        "hosts = default_session().manager.cluster.cluster.view().hosts\n"
        "sum(sum(host.in_flight.values()) for host in hosts)"
    )
    assert in_flight == "0"

    ask(workbench, QUESTION)
    expect(last_answer(workbench)).to_contain_text("Paris", timeout=LONG_S)
    expect(send_button(workbench)).to_be_visible(timeout=LONG_S)
    notebook.screenshot("cluster-chat")
    notebook.use_theme("dark")
    notebook.screenshot("cluster-dark")
    notebook.use_theme("light")

    notebook.run_cell(2)
    for said in ("node-a", "node-b", "smollm2-135m"):
        expect(notebook.output(2)).to_contain_text(said)
    notebook.output(2).scroll_into_view_if_needed()
    notebook.screenshot("cluster-table")
    in_memory(workbench).get_by_role("button", name="Unload", exact=True).click()
    expect(region(workbench, "In memory")).to_contain_text("Nothing is loaded yet")
    notebook.screenshot("cluster-unloaded")
    notebook.assert_no_console_errors()


def test_a_notebook_whose_kernel_restarts_finds_its_model_where_it_was(
    lab: Lab, address: str
) -> None:
    notebook, workbench = open_on_cluster(lab, address)
    press_load(workbench)
    expect(region(workbench, "Loading")).to_contain_text("was loaded in", timeout=LONG_S)
    ask(workbench, STORY)
    expect(last_answer(workbench)).to_contain_text(SOME_OF_IT, timeout=LONG_S)
    notebook.restart_kernel()
    workbench = run_first_cells(notebook)
    expect(region(workbench, "Plan")).to_contain_text(
        re.compile(r"Node node-[ab] holds it"), timeout=LONG_S
    )
    notebook.screenshot("cluster-found")
    press_load(workbench)
    expect(region(workbench, "Loading")).to_contain_text("was in memory already", timeout=LONG_S)
    ask(workbench, QUESTION)
    expect(last_answer(workbench)).to_contain_text("Paris", timeout=LONG_S)
    notebook.screenshot("cluster-again")
    notebook.assert_no_console_errors()
