"""The wheel in an environment of its own, drawing in a real page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab


@pytest.fixture
def lab(installed: Path, tmp_path: Path, chromium: Browser) -> Iterator[Lab]:
    """JupyterLab whose kernels are the clean environment's."""
    server = JupyterServer(tmp_path / "home", python=str(installed))
    lab = Lab(server, chromium)
    yield lab
    lab.close_notebooks()
    server.stop()


def test_the_installed_wheel_loads_its_extension_and_draws_the_workbench(
    lab: Lab, installed: Path
) -> None:
    notebook = lab.open_notebook(["%load_ext ollm", "%ollm"])
    notebook.run_all()
    workbench = notebook.page.get_by_role("region", name="Workbench", exact=True)
    expect(workbench).to_be_visible()
    expect(workbench.get_by_role("option", name="smollm2-135m", exact=True)).to_be_visible()
    home = notebook.kernel_eval("import ollm_widgets; print(ollm_widgets.__file__)")
    assert Path(home).is_relative_to(installed.parents[1])
    notebook.assert_no_console_errors()
