"""Opens notebooks in a real page and drives them the way a person would."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
)

from tests.browser.chromium import VIEWPORT
from tests.browser.jupyter_server import JupyterServer

SCREENSHOTS = Path(__file__).parents[2] / ".screenshots"
READY_TIMEOUT_S = 90

# Notebook 7.6 throws this on every page, an empty one included, while it loads its settings.
NOTEBOOK_7_OWN_ERROR = ("reading 'schema'", "/static/notebook/notebook_core.")

# The panel of the one notebook that a page shows.
PANEL = """const panel = [...window.jupyterapp.shell.widgets('main')]
    .find((widget) => widget.context && widget.context.path.endsWith('.ipynb'));"""

# The execution indicator says idle before any kernel exists; the session's kernel does not.
KERNEL_IS_READY = f"""() => {{
    if (!window.jupyterapp) return false;
    {PANEL}
    const kernel = panel && panel.context.isReady && panel.sessionContext.session?.kernel;
    return !!kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle';
}}"""

START = f"""([command, index, ticket]) => {{
    {PANEL}
    if (index !== null) {{
        panel.content.deselectAll();
        panel.content.activeCellIndex = index;
    }}
    window.jupyterapp.shell.activateById(panel.id);
    window.harnessRuns ??= new Set();
    window.harnessRuns.add(ticket);
    window.jupyterapp.commands.execute(command).finally(
        () => window.harnessRuns.delete(ticket)
    );
}}"""
COMMAND_IS_ENABLED = "command => window.jupyterapp.commands.isEnabled(command)"
HAS_RUN = "ticket => !window.harnessRuns || !window.harnessRuns.has(ticket)"


class NotebookPage:
    """One notebook with its own kernel, open in one page of its own.

    ``page`` is Playwright's, for everything that has no method here.
    """

    # Of all servers, so that no test has to ask each of its pages whether it was quiet.
    seen: ClassVar[list[NotebookPage]] = []

    def __init__(self, server: JupyterServer, context: BrowserContext, name: str) -> None:
        self.server = server
        self.name = name
        self.console_errors: list[str] = []
        self.outside_requests: list[str] = []
        self._tickets = itertools.count()
        self.closed = False
        self.seen.append(self)
        self.page = self._show(context)

    def _show(self, context: BrowserContext) -> Page:
        page = context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", self._on_page_error)
        page.on("request", self._on_request)
        page.goto(self.server.url(self.name))
        self._wait_until_ready(page)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console_errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _on_page_error(self, error: Error) -> None:
        stack = error.stack or ""
        if not all(part in stack for part in NOTEBOOK_7_OWN_ERROR):
            self.console_errors.append(f"uncaught: {error.message}\n{stack}")

    def _on_request(self, request: Request) -> None:
        own = (self.server.base_url, self.server.base_url.replace("http", "ws", 1))
        if not request.url.startswith((*own, "data:", "blob:")):
            self.outside_requests.append(request.url)

    @staticmethod
    def _wait_until_ready(page: Page) -> None:
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=READY_TIMEOUT_S * 1000)
        page.wait_for_function(KERNEL_IS_READY, timeout=READY_TIMEOUT_S * 1000)

    # ------------------------------------------------------------------ cells

    def cell(self, index: int) -> Locator:
        """Cell number `index`, from 0."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """Output area of a cell; its text is what the cell has printed."""
        return self.cell(index).locator(".jp-OutputArea")

    def start_cell(self, index: int) -> int:
        """Run a cell without waiting for its end; the ticket is for `wait_for_run`."""
        return self._start("notebook:run-cell", index)

    def run_cell(self, index: int, timeout_s: float = 60) -> None:
        """Run a cell and wait for its end."""
        self.wait_for_run(self.start_cell(index), timeout_s)

    def run_all(self, timeout_s: float = 120) -> None:
        """Run all cells and wait for their end."""
        self.wait_for_run(self._start("notebook:run-all-cells", None), timeout_s)

    def wait_for_run(self, ticket: int, timeout_s: float = 60) -> None:
        """Wait until what was started has ended."""
        self.page.wait_for_function(HAS_RUN, arg=ticket, timeout=timeout_s * 1000)

    def wait_idle(self, timeout_s: float = 60) -> None:
        """Wait until the kernel is connected and has nothing to do."""
        self.page.wait_for_function(KERNEL_IS_READY, timeout=timeout_s * 1000)

    def select_cell(self, index: int) -> None:
        """Put the focus on a cell as a whole, as after Escape."""
        self.cell(index).locator(".jp-InputPrompt").click()

    def _start(self, command: str, index: int | None) -> int:
        ticket = next(self._tickets)
        self.page.wait_for_function(COMMAND_IS_ENABLED, arg=command, timeout=20_000)
        self.page.evaluate(START, [command, index, ticket])
        return ticket

    # ------------------------------------------------------------------ kernel

    def kernel_eval(self, code: str, timeout_s: float = 60) -> str:
        """Run code in the kernel past the page; what it printed, or the value of its last line.

        It waits behind a running cell, as any other cell would.
        """
        printed: list[str] = []
        shown = {"stream": "text", "execute_result": "data"}

        def keep(message: dict[str, dict[str, object]]) -> None:
            part = message["content"].get(shown.get(str(message["msg_type"]), ""))
            printed.append(str(part["text/plain"] if isinstance(part, dict) else part or ""))

        client = self.server.kernel_client(self.name, timeout_s)
        try:
            reply = client.execute_interactive(
                code, timeout=timeout_s, output_hook=keep, store_history=False
            )["content"]
        finally:
            client.stop_channels()
        if reply["status"] != "ok":
            raise AssertionError("\n".join(reply.get("traceback", [])) or str(reply))
        return "".join(printed).strip()

    def kernel_features(self) -> list[str]:
        """What the kernel says it can do beyond the basics, such as ``"kernel subshells"``."""
        client = self.server.kernel_client(self.name, READY_TIMEOUT_S)
        try:
            info = client.kernel_info(reply=True, timeout=READY_TIMEOUT_S)["content"]
        finally:
            client.stop_channels()
        return list(info.get("supported_features", ()))

    def interrupt_kernel(self) -> None:
        """Interrupt the running cell."""
        self.page.evaluate(f"() => {{ {PANEL} panel.sessionContext.session.kernel.interrupt(); }}")

    def restart_kernel(self) -> None:
        """Restart the kernel and wait until it can run cells again."""
        self.page.evaluate(
            f"async () => {{ {PANEL} await panel.sessionContext.session.kernel.restart(); }}"
        )
        self.wait_idle(READY_TIMEOUT_S)

    # ------------------------------------------------------------------ page

    def reload(self) -> None:
        """Reload the page, saved first so that Jupyter asks nothing; the kernel lives on."""
        self.save()
        self.page.reload()
        self._wait_until_ready(self.page)

    def save(self) -> None:
        """Save the notebook, outputs and widget state included."""
        self.page.evaluate(f"async () => {{ {PANEL} await panel.context.save(); }}")

    def use_theme(self, theme: Literal["light", "dark"]) -> None:
        """Switch JupyterLab's theme."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})",
            f"JupyterLab {theme.title()}",
        )
        light = str(theme == "light").lower()
        self.page.locator(f"body[data-jp-theme-light='{light}']").wait_for(state="attached")
        # The change shows JupyterLab's splash over the page for a moment.
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def screenshot(self, name: str) -> Path:
        """Keep a picture of the page for a person to look at."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def assert_no_console_errors(self) -> None:
        """Fail if the page logged an error or something was thrown and not caught."""
        assert not self.console_errors, "\n".join(self.console_errors)

    @classmethod
    def what_was_wrong(cls) -> list[str]:
        """Errors in the consoles of all pages and what they fetched elsewhere, each told once."""
        told = [
            f"{page.name}: {text}"
            for page in cls.seen
            for text in (
                *page.console_errors,
                *(f"asked for {url}" for url in page.outside_requests),
            )
        ]
        for page in cls.seen:
            page.console_errors.clear()
            page.outside_requests.clear()
        return told

    @classmethod
    def forget_closed(cls) -> None:
        """Leave pages that are closed out of what is told from now on, late messages included."""
        cls.seen[:] = [page for page in cls.seen if not page.closed]

    def close(self) -> None:
        """Close the page and end the kernel."""
        self.closed = True
        self.page.close()
        if session := self.server.session(self.name):
            self.server.request("DELETE", f"/api/sessions/{session['id']}")


class Lab:
    """A server and a browser; opens notebooks and closes them again.

    Parameters
    ----------
    server, browser
        What runs.
    alone
        Whether its pages share nothing with those of others, so that a test may watch all that
        happens in their context. They open more slowly.
    """

    def __init__(self, server: JupyterServer, browser: Browser, *, alone: bool = False) -> None:
        self.server = server
        self._alone = alone
        self._context = browser.new_context(viewport=VIEWPORT) if alone else browser.contexts[0]
        self._context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.open_pages: list[NotebookPage] = []

    def open_notebook(self, cells: Sequence[str]) -> NotebookPage:
        """Write a notebook of code cells, open it, and wait until its kernel can run them."""
        name = f"notebook-{next(self.server.numbers)}.ipynb"
        notebook = new_notebook(
            cells=[new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": self.server.kernel_name, "display_name": "Python 3"}},
        )
        nbformat.write(notebook, self.server.notebooks / name)
        page = NotebookPage(self.server, self._context, name)
        self.open_pages.append(page)
        return page

    def close_notebooks(self) -> None:
        """Close every page opened so far and end their kernels."""
        while self.open_pages:
            self.open_pages.pop().close()
        if self._alone:
            self._context.close()
