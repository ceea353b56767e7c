"""A notebook that was run and saved, read where no kernel is."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

exporting = pytest.importorskip("nbconvert", reason="JupyterLab brings it")

CELLS = (
    "%load_ext ollm\n%ollm load path:{model} --device cpu",
    "%%ollm --into answer --max-new-tokens 12\nw3 w4",
    "print(answer.text)",
    "from ollm_widgets import default_session\n"
    "session = default_session()\n"
    "session.choose('path:{model}')\n"
    "import time\n"
    "while session.plan is None: time.sleep(0.01)",
    "%ollm",
    "from ollm_widgets import Workbench\nWorkbench().freeze()",
    "from ollm_widgets import Chat\nChat()",
)


@pytest.fixture(scope="module")
def run_with_widgets(saved_llama: Path) -> Any:
    """The notebook with its outputs, streams joined, and the state of its widgets."""
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(cell.replace("{model}", str(saved_llama))) for cell in CELLS
        ]
    )
    NotebookClient(notebook, timeout=120, kernel_name="python3", coalesce_streams=True).execute()
    nbformat.validate(notebook)
    return notebook


@pytest.fixture(scope="module")
def run(run_with_widgets: Any) -> Any:
    """The notebook without the state of widgets, as JupyterLab saves it."""
    notebook = deepcopy(run_with_widgets)
    del notebook.metadata["widgets"]
    return notebook


def outputs(notebook: Any, cell: int, kind: str) -> str:
    return "".join(each["data"][kind] for each in notebook.cells[cell].outputs if "data" in each)


def test_exported_as_html_it_has_the_answer_and_a_picture_of_the_plan(run: Any) -> None:
    page, _resources = exporting.HTMLExporter().from_notebook_node(run)
    text = re.sub(r"<[^>]+>", " ", page)
    streamed, printed = (
        " ".join("".join(each["text"] for each in run.cells[cell].outputs).split())
        for cell in (1, 2)
    )
    assert streamed
    assert streamed == printed
    assert streamed in " ".join(text.split())
    assert page.count('class="oc-track" role="img"') >= 2, "of the widget, and of what was frozen"
    assert "Workbench, as it was on" in text
    assert "Error displaying widget" not in page


def test_where_live_widgets_were_saved_what_was_frozen_needs_none(run_with_widgets: Any) -> None:
    page, _resources = exporting.HTMLExporter().from_notebook_node(run_with_widgets)
    assert page.count('class="oc-track" role="img"') == 1
    assert "Workbench, as it was on" in page


def test_an_answer_and_the_end_of_a_load_are_on_one_line_each(run: Any) -> None:
    page, _resources = exporting.HTMLExporter().from_notebook_node(run)
    assert f"<pre>{run.cells[2].outputs[0]['text'].strip()}\n" in page
    loaded, answered = (
        [each for each in run.cells[cell].outputs if "text" in each] for cell in (0, 1)
    )
    assert len(loaded) == len(answered) == 1
    assert "ready after" in loaded[0]["text"]
    assert "warm up" not in loaded[0]["text"]


def test_a_part_with_nothing_to_show_says_so(run: Any) -> None:
    assert "Nothing was said yet." in outputs(run, 6, "text/html")
    assert "Nothing was said yet." in outputs(run, 6, "text/plain")


def test_what_is_shown_of_a_widget_needs_no_script_and_no_network(run: Any) -> None:
    for cell in (4, 5):
        html = outputs(run, cell, "text/html")
        assert "Runs with" in html
        assert not re.search(r"<script|<link|<img|https?://|javascript:|\son\w+=", html)
        assert len(html) < 60_000


def test_where_styles_are_lost_the_figures_are_still_there(run: Any) -> None:
    bare = re.sub(r"<style>.*?</style>|<[^>]+>", " ", outputs(run, 5, "text/html"))
    assert re.search(r"RAM .*\d+ layers", bare)
    assert "No model chosen" not in bare


def test_exported_as_markdown_it_has_the_answer(run: Any) -> None:
    page, _resources = exporting.MarkdownExporter().from_notebook_node(run)
    assert "".join(each["text"] for each in run.cells[2].outputs).strip() in page
