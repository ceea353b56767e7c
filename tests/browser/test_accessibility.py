"""No state of any widget has a serious violation of accessibility rules, in either theme."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.axe import audit
from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab, NotebookPage
from tests.browser.test_workbench import LONG_S, WIDGETS, region

SETUP = """\
%load_ext ollm
import threading
import ollm_widgets
from ollm_widgets import OllmError, Session
from ollm_widgets.weights.placing import Placer
session = Session()
held, bring = threading.Event(), Placer.bring

def hold(self, home, tier, cancel, count):
    held.wait(120)
    bring(self, home, tier, cancel, count)

Placer.bring = hold
"""
ANSWER = """\
## Reading in parts

Use `pyarrow`, see [its pages](https://arrow.apache.org):

```python
for batch in file.iter_batches(65_536):
    total += batch.num_rows  # one at a time
```

| rows | memory |
|---:|---:|
| 8,192 | 3 MB |

1. Beyond 64k rows little is gained.

> A row group is the unit on disk.
"""
TALK = f"""\
for state in ("done", "stopped", "failed"):
    answer = session.conversation.transcript.ask("How do I read a file in parts?")
    answer.pieces.append({ANSWER!r})
    answer.state, answer.note = state, f"162 tokens, {{state}}"
session._changed("chat")
"""
FAILURE = """\
session.desk.edit("context_tokens", "99999999")
problem = OllmError("The load ran out of memory.", hint="Choose fewer layers on the GPU.")
session.loading.end("failed", problem)
session._changed("loading", "plan")
"""
FEWEST_TEXTS = 60  # that are shown before anything is chosen


@pytest.fixture(scope="module")
def notebook(lab_server: JupyterServer, chromium: Browser) -> Iterator[NotebookPage]:
    """Every widget and the workbench over one session, so that all are in the same state."""
    lab = Lab(lab_server, chromium)
    widgets = [f"ollm_widgets.{name}(session)" for name in ("Workbench", *WIDGETS)]
    notebook = lab.open_notebook([SETUP, *widgets])
    notebook.run_all()
    yield notebook
    lab.close_notebooks()


def assert_accessible(notebook: NotebookPage, state: str) -> None:
    """In both themes; the dark one first, so that the light one is left."""
    found: list[str] = []
    themes: tuple[Literal["dark", "light"], ...] = ("dark", "light")
    for theme in themes:
        notebook.use_theme(theme)
        notebook.page.mouse.move(0, 0)
        seen = audit(notebook.page)
        found += [f"{theme}: {one}" for one in seen.grave]
        assert seen.legible > FEWEST_TEXTS, "most of the page was not looked at"
    assert not found, f"{state}\n" + "\n".join(dict.fromkeys(found))


def test_before_anything_is_chosen(notebook: NotebookPage) -> None:
    for name in ("Workbench", *WIDGETS.values()):
        expect(region(notebook.page.locator(".jp-Notebook"), name).first).to_be_visible()
    assert_accessible(notebook, "empty")


def test_with_a_plan(notebook: NotebookPage) -> None:
    notebook.kernel_eval("session.choose('smollm2-135m')")
    for plan in region(notebook.page.locator(".jp-Notebook"), "Plan").all():
        expect(plan).to_contain_text("Runs with optimized-native", timeout=LONG_S)
    assert_accessible(notebook, "planned")


def test_while_it_loads(notebook: NotebookPage) -> None:
    notebook.kernel_eval("session.load()")
    for bar in notebook.page.get_by_role("progressbar", name="Read weights").all():
        expect(bar).to_be_visible(timeout=LONG_S)
    assert_accessible(notebook, "loading")


def test_once_it_is_loaded(notebook: NotebookPage) -> None:
    notebook.kernel_eval("Placer.bring = bring\nheld.set()")
    for loading in region(notebook.page.locator(".jp-Notebook"), "Loading").all():
        expect(loading).to_contain_text("was loaded in", timeout=LONG_S)
    assert_accessible(notebook, "loaded")


def test_with_code_and_tables_in_the_conversation(notebook: NotebookPage) -> None:
    notebook.kernel_eval(TALK)
    for log in notebook.page.get_by_role("log", name="Conversation").all():
        expect(log.get_by_role("table")).to_have_count(3)
    assert_accessible(notebook, "talking")
    notebook.screenshot("accessibility-talking")


def test_with_errors(notebook: NotebookPage) -> None:
    notebook.kernel_eval(FAILURE)
    for loading in region(notebook.page.locator(".jp-Notebook"), "Loading").all():
        expect(loading.get_by_role("alert")).to_contain_text("ran out of memory")
    assert_accessible(notebook, "failed")


def test_what_is_wrong_would_be_found(chromium: Browser) -> None:
    page = chromium.new_page()
    page.set_content(
        "<div class='ollm'><button></button><p style='color: #ccc'>faint</p>"
        "<details><summary>More</summary><input></details></div><img src='not-ours'>"
    )
    found = {one.partition(":")[0] for one in audit(page).grave}
    assert found == {"button-name", "color-contrast", "label"}
    page.context.close()
