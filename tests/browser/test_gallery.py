"""Every widget in its states, photographed in both themes, narrow and wide, in a real JupyterLab.

The pictures are there to be looked at; what is asserted holds for any layout.
"""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Locator, expect

from tests.browser.gallery import EXHIBITS, PICTURES, ROOT, Exhibit
from tests.browser.gallery_specimens import take_specimens, too_faint
from tests.browser.lab import Lab, NotebookPage

OPEN = """\
import sys
sys.path.insert(0, {root!r})
from ollm_widgets import *
from tests.browser.gallery_states import Gallery
gallery = Gallery({other!r}, {neighbours!r})
"""
NARROW_PX = 360
SMALLEST_TARGET_PX = 24

# Text is cut off where its box hides what overflows, or lies outside the widget. An ellipsis says
# so itself, a box that scrolls shows the rest, and a stretch of a memory bar has its name below.
CUT_OFF = """root => {
    const edge = root.getBoundingClientRect();
    const hasText = (node) => [...node.childNodes].some(
        (child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim()
    );
    const isDrawn = (node) => node.checkVisibility({ visibilityProperty: true }) &&
        !node.closest('.ollm-hidden, .ollm-stretch');
    const scrolls = (node) => {
        for (let at = node; at !== root; at = at.parentElement) {
            if (/auto|scroll/.test(getComputedStyle(at).overflow)) return true;
        }
        return false;
    };
    const isCutOff = (node) => {
        const style = getComputedStyle(node);
        const box = node.getBoundingClientRect();
        if (style.textOverflow === 'ellipsis' || scrolls(node)) return false;
        if (box.left < edge.left - 1 || box.right > edge.right + 1) return true;
        return style.overflowX !== 'visible' && node.scrollWidth > node.clientWidth + 1;
    };
    return [...root.querySelectorAll('*')]
        .filter((node) => hasText(node) && isDrawn(node) && isCutOff(node))
        .map((node) => node.textContent);
}"""

SMALL_TARGETS = """(root, smallest) => [...root.querySelectorAll('button, summary, select, input')]
    .filter((node) => node.checkVisibility() && !node.matches('.ollm-stretch'))
    .map((node) => [node.textContent || node.getAttribute('aria-label'),
        node.getBoundingClientRect().height])
    .filter(([, height]) => height < smallest - 0.5)"""


def test_every_widget_can_be_read_in_both_themes_narrow_and_wide(
    lab: Lab, other_model: str, tmp_path: Path
) -> None:
    begin = OPEN.format(root=str(ROOT), other=other_model, neighbours=str(tmp_path / "kernels"))
    notebook = lab.open_notebook([begin, *(exhibit.code for exhibit in EXHIBITS)])
    notebook.run_all(timeout_s=240)
    views = {
        exhibit: notebook.cell(number).get_by_role("region", name=exhibit.region, exact=True)
        for number, exhibit in enumerate(EXHIBITS, 1)
    }
    for exhibit, view in views.items():
        if exhibit.press:
            view.get_by_role("button", name=exhibit.press, exact=True).click()
        expect(view).to_contain_text(exhibit.shows, timeout=30_000)
    PICTURES.mkdir(parents=True, exist_ok=True)

    for theme in ("light", "dark"):
        notebook.use_theme(theme)
        for width in ("wide", "narrow"):
            use_width(notebook, width)
            wrong = [
                f"{exhibit.name}, {theme}, {width}: {what}"
                for exhibit, view in views.items()
                for what in look_at(exhibit, view, theme, width)
            ]
            assert not wrong, "\n".join(wrong)
        assert too_faint(notebook.page) == []
        take_specimens(notebook.page, PICTURES, theme)
        take_front(notebook, theme)

    notebook.use_theme("light")
    use_width(notebook, "wide")
    heights = {
        exhibit.name: view.evaluate("node => node.offsetHeight")
        for exhibit, view in views.items()
        if exhibit.name in ("load-ready", "load-running", "load-done")
    }
    assert len(set(heights.values())) == 1, f"a load moves what is below it: {heights}"
    notebook.kernel_eval("gallery.close()", timeout_s=120)
    notebook.assert_no_console_errors()


def take_front(notebook: NotebookPage, theme: str) -> None:
    """Keep the picture that the README begins with: the workbench down to its conversation."""
    use_width(notebook, "wide")
    notebook.page.set_viewport_size({"width": 1560, "height": 2400})
    view = notebook.page.get_by_role("region", name="Workbench", exact=True).nth(1)
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    chat = view.get_by_role("region", name="Chat", exact=True).bounding_box()
    assert box is not None
    assert chat is not None
    box["height"] = chat["y"] + chat["height"] + 16 - box["y"]
    notebook.page.screenshot(path=PICTURES / f"workbench-front-{theme}.png", clip=box)


def use_width(notebook: NotebookPage, width: str) -> None:
    """Give every widget as little room as a phone has, or all there is."""
    height, room = {"narrow": (3200, f"{NARROW_PX}px"), "wide": (2400, "auto")}[width]
    # A picture of what is taller than the page would show the page's own edges too.
    notebook.page.set_viewport_size({"width": 1400, "height": height})
    notebook.page.evaluate(
        """room => {
            for (const root of document.querySelectorAll('.jp-Notebook .ollm')) {
                root.style.width = room;
            }
        }""",
        room,
    )


def look_at(exhibit: Exhibit, view: Locator, theme: str, width: str) -> list[str]:
    """Keep a picture, and say what could not be read or reached in it."""
    expect(view).to_be_visible()
    view.screenshot(
        path=PICTURES / f"{exhibit.name}-{theme}-{width}.png", animations="disabled", caret="hide"
    )
    root = view.locator("xpath=ancestor::div[contains(@class, 'ollm')][1]")
    wrong = []
    if root.evaluate("node => node.scrollWidth > node.clientWidth"):
        wrong.append("is wider than its place")
    wrong += [f"cuts off {text!r}" for text in root.evaluate(CUT_OFF)]
    small = root.evaluate(SMALL_TARGETS, SMALLEST_TARGET_PX)
    wrong += [f"{name!r} is {height:.0f} px high" for name, height in small]
    return [re.sub(r"\s+", " ", what) for what in wrong]
