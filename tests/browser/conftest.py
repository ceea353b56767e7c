"""A real JupyterLab (and Notebook 7) with a real Chromium, for every test in this folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error

from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab, NotebookPage

# Another environment's interpreter, for the kernels of all tests; `.ci/run` names the oldest one.
KERNEL_PYTHON = os.environ.get("OLLM_TEST_KERNEL_PYTHON", "").strip() or sys.executable


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail what passed if a page of it logged an error, or went to another machine."""
    NotebookPage.forget_closed()
    try:
        result = yield
    except BaseException:
        NotebookPage.what_was_wrong()  # the test's own failure says more
        raise
    wrong = NotebookPage.what_was_wrong()
    assert not wrong, "\n".join(wrong)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep a picture of every open page when a test fails."""
    report = yield
    if report.when == "call" and report.failed:
        open_pages = [page for page in NotebookPage.seen if not page.closed]
        for number, page in enumerate(open_pages):
            try:
                kept = page.screenshot(f"failed-{item.name}-{number}")
                report.sections.append(("screenshot", str(kept)))
            except Error as error:  # the page is gone: the failure itself says more
                report.sections.append(("no screenshot", str(error)))
    return report


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    server = JupyterServer(tmp_path_factory.mktemp("lab") / "home", "lab", KERNEL_PYTHON)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def notebook_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    server = JupyterServer(tmp_path_factory.mktemp("notebook") / "home", "notebook", KERNEL_PYTHON)
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


@pytest.fixture
def other_model(converted_smollm: Path, tmp_path: Path) -> str:
    """The same real model in a folder of another name."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)

    folder = tmp_path / "smollm2-copy"
    shutil.copytree(converted_smollm, folder, copy_function=link)
    return f"path:{folder}"
