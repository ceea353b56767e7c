"""A real JupyterLab (and Notebook 7) with a real Chromium, for every test in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error

from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep a picture of every open page when a test fails."""
    report = yield
    if report.when == "call" and report.failed:
        for lab in (value for value in item.funcargs.values() if isinstance(value, Lab)):
            for number, page in enumerate(lab.open_pages):
                try:
                    kept = page.screenshot(f"failed-{item.name}-{number}")
                    report.sections.append(("screenshot", str(kept)))
                except Error as error:  # the page is gone: the failure itself says more
                    report.sections.append(("no screenshot", str(error)))
    return report


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    server = JupyterServer(tmp_path_factory.mktemp("lab") / "home", "lab")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def notebook_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    server = JupyterServer(tmp_path_factory.mktemp("notebook") / "home", "notebook")
    yield server
    server.stop()


@pytest.fixture
def lab(lab_server: JupyterServer, chromium: Browser) -> Iterator[Lab]:
    """JupyterLab; what a test opens is closed after it."""
    lab = Lab(lab_server, chromium)
    yield lab
    lab.close_notebooks()


@pytest.fixture
def notebook7(notebook_server: JupyterServer, chromium: Browser) -> Iterator[Lab]:
    """Notebook 7, with the same methods."""
    notebook7 = Lab(notebook_server, chromium)
    yield notebook7
    notebook7.close_notebooks()
