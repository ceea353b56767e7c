"""Pictures of a running model, in a real JupyterLab with the real small model."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.browser.lab import Lab, NotebookPage

LONG_MS = 120_000
OPEN = """\
%load_ext ollm
from ollm_widgets import Activity, GenerationConfig, RuntimeManager, Session
session = Session(RuntimeManager(), GenerationConfig(max_new_tokens=24))
"""
LOAD = """\
session.choose("smollm2-135m")
session.desk.edit("offload_cpu_layers", "5")
while session.plan is None or session.plan.placement.host_layers != 5:
    time.sleep(0.05)
session.load()
"""
TRACE = """\
from ollm_widgets.protocol.views import view_activity
trace = view_activity(session).trace
index = trace.numbers.index({number})
print(sum(part.tokens_ms[index] for part in trace.parts))
"""


def picture(region: Locator, title: str) -> Locator:
    return region.get_by_role("figure", name=title, exact=True)


def ask(notebook: NotebookPage, question: str) -> None:
    notebook.kernel_eval(f"session.send({question!r})")


def walk(slider: Locator, *keys: str) -> str:
    """Press keys; what the slider says then."""
    slider.focus()
    for key in keys:
        slider.press(key)
    expect(slider).to_be_focused()
    return slider.get_attribute("aria-valuetext") or ""


def fits(page: Page, region: Locator, width: int) -> None:
    """Make the page as wide as that leaves `width` for the widget; nothing may stick out."""
    now = region.evaluate("node => node.clientWidth")
    size = page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": size["width"] + width - now, "height": 1300})
    expect(region).to_be_visible()
    assert region.evaluate("node => node.scrollWidth <= node.clientWidth")


def test_speed_memory_and_time_of_real_answers_are_drawn(lab: Lab) -> None:
    notebook = lab.open_notebook([OPEN, "Activity(session)"])
    notebook.run_all()
    page = notebook.page
    region = page.get_by_role("region", name="Activity", exact=True)
    expect(region).to_contain_text("once a model is loaded")
    expect(region.get_by_role("figure")).to_have_count(0)

    notebook.kernel_eval("import time")
    notebook.kernel_eval(LOAD)
    expect(picture(region, "Predicted and measured")).to_be_visible(timeout=LONG_MS)

    # Speed and memory need nothing but an answer.
    ask(notebook, "What is the capital of France?")
    speed, kv = picture(region, "Speed of the last answer"), picture(region, "KV cache")
    expect(kv).to_contain_text("of 4,096 tokens", timeout=LONG_MS)
    expect(speed).to_contain_text("tokens/s on average")
    expect(speed.get_by_role("img")).to_have_attribute("aria-label", re.compile("prompt tokens"))

    # An answer that is traced adds where its time went.
    switch = region.get_by_role("button", name="Trace the next answer", exact=True)
    switch.click()
    expect(region.get_by_role("status", name="Trace")).to_contain_text("layer by layer")
    expect(switch).to_have_attribute("aria-pressed", "true")
    ask(notebook, "Why is the sky blue?")
    time = picture(region, "Where the time of a token goes")
    expect(time).to_be_visible(timeout=LONG_MS)
    expect(switch).to_have_attribute("aria-pressed", "false")
    expect(kv.get_by_role("slider")).to_have_attribute("aria-valuemax", "2")

    # Arrow keys go from token to token, and the kernel tells the layers of each.
    tokens = time.get_by_role("slider", name="Tokens that were traced", exact=True)
    first = walk(tokens, "Home")
    assert first.startswith("Token 2: ")
    expect(time).to_contain_text("Token 2, ")
    second = walk(tokens, "ArrowRight")
    assert second.startswith("Token 3: ")
    expect(time).to_contain_text("Token 3, ")
    layer = walk(time.get_by_role("slider", name="Layers of the token", exact=True), "End")
    assert layer.startswith("Layer 30 of 30: ")
    assert walk(speed.get_by_role("slider"), "Home").startswith("Token 2: ")

    # The same as a table, which says what the kernel has.
    time.get_by_role("button", name="Show as table", exact=True).click()
    cells = time.get_by_role("row", name=re.compile("^3 ")).get_by_role("cell")
    total, *parts = (float(text) for text in cells.all_inner_texts())
    in_kernel = float(notebook.kernel_eval(TRACE.format(number=3)))
    assert abs(total - in_kernel) < 0.1
    assert abs(sum(parts) - total) < 0.1 * len(parts)
    time.get_by_role("button", name="Show as table", exact=True).click()

    for theme in ("light", "dark"):
        notebook.use_theme(theme)
        for width in (1000, 332):
            fits(page, region, width)
            notebook.screenshot(f"pictures-{width}-{theme}")
    notebook.use_theme("light")
    page.set_viewport_size({"width": 1400, "height": 1000})

    # The kernel holds all of it, so a page that is opened anew shows the same.
    notebook.reload()
    expect(picture(region, "Where the time of a token goes")).to_contain_text("Token 3, ")
    expect(picture(region, "KV cache").get_by_role("slider")).to_have_attribute(
        "aria-valuemax", "2"
    )
    notebook.assert_no_console_errors()
    assert notebook.outside_requests == []
