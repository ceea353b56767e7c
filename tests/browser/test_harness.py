"""The harness itself: a page that opens, a kernel that answers, an end that leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.jupyter_server import Flavour, JupyterServer
from tests.browser.lab import Lab, NotebookPage


@pytest.mark.parametrize("place", ["lab", "notebook7"])
def test_a_cell_runs_in_the_page(place: str, request: pytest.FixtureRequest) -> None:
    lab: Lab = request.getfixturevalue(place)
    notebook = lab.open_notebook(["print(6 * 7)", "answer = 6 * 7"])
    notebook.run_cell(0)
    expect(notebook.output(0)).to_have_text("42")
    notebook.run_all()
    assert notebook.kernel_eval("answer") == "42"
    notebook.screenshot(f"harness-{place}")


def test_a_running_cell_can_be_interrupted(lab: Lab) -> None:
    notebook = lab.open_notebook(["import threading\nprint('running')\nthreading.Event().wait()"])
    ticket = notebook.start_cell(0)
    expect(notebook.output(0)).to_have_text("running")
    expect(notebook.cell(0).locator(".jp-InputPrompt")).to_have_text("[*]:")
    notebook.interrupt_kernel()
    notebook.wait_for_run(ticket)
    expect(notebook.output(0)).to_contain_text("KeyboardInterrupt")


def test_variables_outlive_a_reload_and_not_a_restart(lab: Lab) -> None:
    notebook = lab.open_notebook(["kept = 1"])
    notebook.run_cell(0)
    notebook.reload()
    assert notebook.kernel_eval("kept") == "1"
    notebook.restart_kernel()
    assert notebook.kernel_eval("'kept' in globals()") == "False"


def test_a_closed_notebook_leaves_no_kernel(lab: Lab) -> None:
    lab.open_notebook([""])
    lab.close_notebooks()
    assert lab.server.request("GET", "/api/kernels") == []


@pytest.mark.parametrize("flavour", ["lab", "notebook"])
def test_pages_get_the_files_of_what_the_kernels_environment_installed(
    flavour: Flavour, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    extension = environment / "share" / "jupyter" / "labextensions" / "elsewhere"
    extension.mkdir(parents=True)
    manifest = {"name": "elsewhere", "jupyterlab": {"_build": {"load": "static/entry.js"}}}
    (extension / "package.json").write_text(json.dumps(manifest), encoding="utf-8")
    server = JupyterServer(tmp_path / "home", flavour, str(environment / "bin" / "python"))
    try:
        assert server.request("GET", "/lab/extensions/elsewhere/package.json") == manifest
    finally:
        server.stop()


def test_what_a_page_should_not_do_is_noticed(lab: Lab) -> None:
    notebook = lab.open_notebook([""])
    assert NotebookPage.what_was_wrong() == []
    for script, noticed in (
        ("console.error('oh')", ": oh ("),
        ("setTimeout(() => { throw Error('oh') })", "uncaught: oh"),
        ("return fetch('http://a.invalid').catch(() => {})", "asked for http://a.invalid"),
    ):
        notebook.page.evaluate(f"() => {{ {script} }}")
        notebook.page.evaluate("() => new Promise((done) => setTimeout(done))")
        assert noticed in "\n".join(NotebookPage.what_was_wrong())
