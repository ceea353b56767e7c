"""The notebook that `make demo` opens, as a person runs it: all cells, top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
from playwright.sync_api import expect

from tests.browser.lab import Lab

QUICKSTART = Path(__file__).parents[2] / "examples" / "01_quickstart.ipynb"


def test_the_quickstart_ends_with_a_sensible_answer_and_a_workbench_that_knows_it(
    lab: Lab,
) -> None:
    notebook_file = nbformat.read(QUICKSTART, as_version=4)
    sources = [cell.source for cell in notebook_file.cells if cell.cell_type == "code"]
    notebook = lab.open_notebook(sources)
    notebook.run_all(timeout_s=180)
    asking = next(n for n, source in enumerate(sources) if source.startswith("%%ollm"))
    expect(notebook.output(asking)).to_contain_text("Paris")
    workbench = notebook.page.get_by_role("region", name="Workbench", exact=True)
    memory = workbench.get_by_role("region", name="In memory", exact=True)
    expect(memory).to_contain_text("smollm2-135m")
    expect(workbench).not_to_contain_text("Run this cell again")
    for number in range(len(sources)):
        notebook.cell(number).scroll_into_view_if_needed()
        notebook.screenshot(f"quickstart-{number}")
