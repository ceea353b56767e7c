"""Moving layers between the tiers of memory, in a real JupyterLab with the real small model."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.chromium import VIEWPORT
from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab, NotebookPage

OPEN = [
    "%load_ext ollm\nfrom ollm_widgets import PlanEditor, Session",
    "session = Session()\nsession.choose('smollm2-135m')\nPlanEditor(session)",
]
LAYERS = 30
NUMBER = re.compile(r"[\d.]+")


@pytest.fixture(scope="module")
def notebook(lab_server: JupyterServer, chromium: Browser) -> Iterator[NotebookPage]:
    lab = Lab(lab_server, chromium)
    yield lab.open_notebook(OPEN)
    lab.close_notebooks()


@pytest.fixture
def plan(notebook: NotebookPage) -> Locator:
    """A plan editor of a session that nobody has used before."""
    notebook.page.set_viewport_size(VIEWPORT)
    notebook.run_all()
    plan = notebook.page.get_by_role("region", name="Plan", exact=True)
    expect(plan).to_contain_text("Runs with optimized-native", timeout=30_000)
    expect(boundary(plan)).to_have_attribute("aria-valuenow", str(LAYERS))
    return plan


def boundary(plan: Locator) -> Locator:
    return plan.get_by_role("slider", name="Boundary between RAM and disk", exact=True)


def button(plan: Locator, name: str) -> Locator:
    return plan.get_by_role("button", name=name, exact=True)


def in_ram(plan: Locator) -> Locator:
    return plan.get_by_role("textbox", name="Layers in RAM", exact=True)


def tokens_per_s(plan: Locator) -> float:
    figure = plan.locator("dl > div").filter(has_text="tokens/s").locator("dd")
    return float(NUMBER.search(figure.inner_text())[0])  # type: ignore[index]


def drag(notebook: NotebookPage, plan: Locator, to_layers: int, of_layers: int) -> None:
    """Drag the boundary with the mouse, over several places on the way."""
    handle = boundary(plan)
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    strip = plan.locator(".ollm-strip").bounding_box()
    assert box is not None
    assert strip is not None
    mouse = notebook.page.mouse
    y = box["y"] + box["height"] / 2
    mouse.move(box["x"] + box["width"] / 2, y)
    mouse.down()
    mouse.move(strip["x"] + strip["width"] * to_layers / of_layers, y, steps=12)
    mouse.up()


def test_layers_are_dragged_to_disk_and_back_and_everything_follows(
    notebook: NotebookPage, plan: Locator
) -> None:
    resident = tokens_per_s(plan)
    notebook.screenshot("plan-automatic")

    drag(notebook, plan, 10, LAYERS)
    expect(boundary(plan)).to_have_attribute("aria-valuenow", "10")
    expect(in_ram(plan)).to_have_value("10")
    expect(plan).to_contain_text("10 in RAM, 20 on disk, of 30 layers")
    expect(plan.get_by_role("group", name=re.compile("^Disk: "))).to_be_visible()
    expect(plan.get_by_role("status", name="Changes")).to_contain_text("Layers in RAM")
    assert tokens_per_s(plan) != resident
    notebook.screenshot("plan-dragged")

    plan.get_by_text("Why this plan").click()
    expect(plan).to_contain_text("With the layer counts left empty it would run")
    notebook.screenshot("plan-why")

    # However many places a drag went over, it is one step.
    button(plan, "Undo").click()
    expect(boundary(plan)).to_have_attribute("aria-valuenow", str(LAYERS))
    expect(in_ram(plan)).to_have_value("")
    expect(button(plan, "Undo")).to_have_attribute("aria-disabled", "true")
    button(plan, "Redo").click()
    expect(boundary(plan)).to_have_attribute("aria-valuenow", "10")

    button(plan, "Back to automatic").click()
    expect(boundary(plan)).to_have_attribute("aria-valuenow", str(LAYERS))


def test_the_keyboard_moves_layers_and_the_kernel_follows(
    notebook: NotebookPage, plan: Locator
) -> None:
    handle = boundary(plan)
    handle.focus()
    for key in ("ArrowLeft", "ArrowLeft", "PageDown"):
        handle.press(key)
    expect(handle).to_have_attribute("aria-valuenow", "24")
    expect(handle).to_have_attribute("aria-valuetext", "24 in RAM, 6 on disk, of 30 layers")
    expect(handle).to_be_focused()
    expect(in_ram(plan)).to_have_value("24")
    assert notebook.kernel_eval("session.config.offload_cpu_layers") == "24"
    handle.press("Control+z")
    expect(handle).to_have_attribute("aria-valuenow", "28")
    handle.press("Home")
    expect(handle).to_have_attribute("aria-valuenow", "0")
    handle.press("End")
    expect(handle).to_have_attribute("aria-valuenow", str(LAYERS))


def test_a_preset_is_applied_copied_as_code_and_taken_back(
    notebook: NotebookPage, plan: Locator
) -> None:
    button(plan, "Small machine").click()
    expect(button(plan, "Small machine")).to_have_attribute("aria-pressed", "true")
    expect(plan).to_contain_text("More settings · 2 chosen")
    expect(plan.get_by_label("Context")).to_have_value("2048")
    button(plan, "Copy as code").click()
    expect(plan).to_contain_text("Copied")
    copied = notebook.page.evaluate("navigator.clipboard.readText()")
    assert 'cpu_memory_budget="4GiB"' in copied
    assert "context_tokens=2048" in copied
    expect(button(plan, "Least GPU memory")).to_have_attribute("aria-disabled", "true")

    plan.get_by_text("More settings").click()
    budget = plan.get_by_role("textbox", name="RAM budget", exact=True)
    budget.fill("6 apples")
    budget.press("Enter")
    expect(plan).to_contain_text("'6 apples' is not a size")
    budget.fill("1MiB")
    budget.press("Enter")
    expect(plan).to_contain_text("missing")
    expect(plan).to_contain_text("Does not run as asked")
    notebook.screenshot("plan-too-large")
    for _step in range(2):
        button(plan, "Undo").click()
    expect(plan).to_contain_text("Runs with optimized-native")
    expect(plan.get_by_label("Context")).to_have_value("")


@pytest.mark.parametrize("width", [360, 1400])
def test_the_editor_is_usable_narrow_wide_light_and_dark(
    notebook: NotebookPage, plan: Locator, width: int
) -> None:
    notebook.page.set_viewport_size({"width": max(width, 420), "height": 1400})
    drag(notebook, plan, 18, LAYERS)
    expect(boundary(plan)).to_have_attribute("aria-valuenow", "18")
    expect(in_ram(plan)).to_have_value("18")
    notebook.page.mouse.move(0, 0)
    overflowing = plan.evaluate("region => region.scrollWidth > region.clientWidth + 1")
    assert not overflowing
    notebook.screenshot(f"plan-{width}-light")
    notebook.use_theme("dark")
    notebook.screenshot(f"plan-{width}-dark")
    notebook.use_theme("light")
