"""A person's way in every place: JupyterLab and Notebook 7, kernels that hear while busy or not.

Kernels run on the interpreter that ``OLLM_TEST_KERNEL_PYTHON`` names, so that the same tests
hold for the oldest ipykernel, which hears nothing while it is busy. The tests of a place share
its notebook, in the order below; each also stands alone. ``OLLM_EVERY_PLACE=1`` adds a place
whose pages may not use the subshells that a kernel has, and does everything in each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.jupyter_server import Flavour, JupyterServer
from tests.browser.keyboard import Keyboard
from tests.browser.lab import Lab, NotebookPage
from tests.browser.test_workbench import (
    LONG_S,
    QUESTION,
    ask,
    last_answer,
    load_model,
    pick,
    region,
    send_button,
    stop_button,
)

COUNT = "List all numbers from 1 to 5000, separated by commas."  # it does not get there
NUMBERS = re.compile(r"(?:\d+, ){12}")
SETUP_CELL = """\
%load_ext ollm
import threading
from ollm_widgets import GenerationConfig, Session, Workbench
session = Session(generation=GenerationConfig(max_new_tokens=3000))
"""
CELLS = [
    SETUP_CELL,
    "bench = Workbench(session)\nbench",
    "bench",
    "print('running')\nthreading.Event().wait()",
    "Workbench(session)",
]
SETUP, BENCH, AGAIN, BUSY, FRESH = range(5)
RUNNING = "[*]:"


@dataclass(frozen=True)
class Place:
    """Where notebooks are open, and whether the page may use subshells of a kernel."""

    flavour: Flavour
    subshells: bool


# Notebook 7 reads no setting for subshells, so that nobody can switch them off there.
PLACES = {
    "lab": Place("lab", True),
    "notebook7": Place("notebook", True),
    "lab-without-subshells": Place("lab", False),
}
EVERY = os.environ.get("OLLM_EVERY_PLACE", "").strip() == "1"
in_each_place = pytest.mark.parametrize(
    "stage", list(PLACES)[: None if EVERY else 2], indirect=True, scope="module"
)
# What no place should change.
in_one_place = pytest.mark.parametrize(
    "stage", list(PLACES)[: None if EVERY else 1], indirect=True, scope="module"
)


@dataclass(frozen=True)
class Stage:
    """An open notebook with a workbench in it."""

    notebook: NotebookPage
    name: str
    hears_while_busy: bool

    @property
    def workbench(self) -> Locator:
        return self.view(BENCH)

    def view(self, cell: int) -> Locator:
        return region(self.notebook.cell(cell), "Workbench")

    def with_a_model(self) -> Locator:
        """The workbench, with a model that is at rest."""
        workbench = self.workbench
        expect(region(workbench, "Models")).to_be_visible()
        if region(workbench, "In memory").get_by_role("listitem", name="smollm2-135m").count() == 0:
            load_model(workbench)
        expect(send_button(workbench)).to_be_visible(timeout=LONG_S)
        return workbench

    def start_to_count(self) -> Locator:
        """An answer that has begun and would go on for minutes."""
        self.notebook.kernel_eval("session.conversation.clear()")
        ask(self.workbench, COUNT)
        answer = last_answer(self.workbench)
        expect(answer).to_contain_text(NUMBERS, timeout=LONG_S)
        return answer

    @contextmanager
    def a_running_cell(self) -> Iterator[None]:
        """A cell that runs until what is done meanwhile has been done, and then is interrupted."""
        prompt = self.notebook.cell(BUSY).locator(".jp-InputPrompt")
        ticket = self.notebook.start_cell(BUSY)
        try:
            # The page says that it runs before the kernel does, and a click could overtake it;
            # what an earlier run printed ends with its interrupt.
            expect(self.notebook.output(BUSY)).to_have_text("running")
            expect(prompt).to_have_text(RUNNING)
            yield
            expect(prompt).to_have_text(RUNNING)
        finally:
            self.notebook.interrupt_kernel()
            self.notebook.wait_for_run(ticket)

    def get_an_answer(self) -> None:
        """In a conversation of its own: a long one leads so small a model astray."""
        new = region(self.workbench, "Chat").get_by_role("button", name="New chat")
        if new.is_enabled():
            new.click()
        expect(new).to_be_disabled()
        ask(self.workbench, QUESTION)
        expect(last_answer(self.workbench)).to_contain_text("Paris", timeout=LONG_S)
        expect(send_button(self.workbench)).to_be_visible(timeout=LONG_S)


def numbers_in(answer: Locator) -> list[int]:
    """The numbers that an answer has counted to, the last one if it is whole."""
    return [int(number) for number in re.findall(r"(\d+),", answer.text_content() or "")]


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[Stage]:
    place = PLACES[request.param]
    name = "lab_server" if place.flavour == "lab" else "notebook_server"
    server: JupyterServer = request.getfixturevalue(name)
    server.use_subshells(place.subshells)
    lab = Lab(server, chromium)
    try:
        notebook = lab.open_notebook(CELLS)
        has_subshells = "kernel subshells" in notebook.kernel_features()
        if not place.subshells and not has_subshells:
            pytest.skip("kernels of this ipykernel have no subshells to switch off")
        for cell in (SETUP, BENCH, AGAIN):
            notebook.run_cell(cell)
        yield Stage(notebook, request.param, place.subshells and has_subshells)
    finally:
        lab.close_notebooks()
        server.use_subshells(True)


@in_each_place
def test_a_model_is_picked_planned_loaded_and_talked_to(stage: Stage) -> None:
    workbench = stage.with_a_model()
    stage.get_an_answer()
    answer = stage.start_to_count()
    stop_button(workbench).click()
    expect(answer).to_contain_text("stopped")
    expect(answer).to_contain_text(NUMBERS)
    stage.get_an_answer()
    stage.notebook.screenshot(f"place-{stage.name}")


@in_one_place
def test_two_views_agree(stage: Stage) -> None:
    first, second = stage.with_a_model(), stage.view(AGAIN)
    stage.get_an_answer()
    expect(send_button(second)).to_be_visible(timeout=LONG_S)
    assert last_answer(second).text_content() == last_answer(first).text_content()
    answer = stage.start_to_count()
    stop_button(second).click()
    expect(answer).to_contain_text("stopped")
    expect(last_answer(second)).to_contain_text("stopped")
    assert last_answer(second).text_content() == answer.text_content()


@in_each_place
def test_a_page_reloaded_amid_an_answer_goes_on_with_it(stage: Stage) -> None:
    stage.with_a_model()
    answer = stage.start_to_count()
    stage.notebook.reload()
    expect(answer).to_contain_text(NUMBERS)
    expect(stop_button(stage.workbench)).to_be_visible()
    ahead = numbers_in(answer)[-1] + 5
    expect(answer).to_contain_text(f" {ahead},", timeout=LONG_S)
    stop_button(stage.workbench).click()
    expect(answer).to_contain_text("stopped")
    said = numbers_in(answer)
    assert said == list(range(1, len(said) + 1)), "something was lost, or came twice"
    assert said == numbers_in(last_answer(stage.view(AGAIN)))
    stage.get_an_answer()


@in_each_place
def test_a_press_counts_although_the_page_scrolls_before_it_ends(stage: Stage) -> None:
    instructions = region(stage.workbench, "Chat").get_by_role("button", name="Instructions")
    instructions.scroll_into_view_if_needed()
    box = instructions.bounding_box()
    assert box is not None
    mouse = stage.notebook.page.mouse
    mouse.move(box["x"] + 5, box["y"] + 5)
    mouse.down()
    # As a notebook does that selects the pressed cell.
    instructions.evaluate(
        "(button) => {"
        "  let box = button.parentElement;"
        "  const top = button.getBoundingClientRect().top;"
        "  for (; box && button.getBoundingClientRect().top === top; box = box.parentElement)"
        "    box.scrollBy(0, box.scrollTop > 80 ? -80 : 80);"
        "}"
    )
    moved = instructions.bounding_box()
    assert moved is not None
    assert abs(moved["y"] - box["y"]) > box["height"]
    mouse.up()
    expect(instructions).to_have_attribute("aria-expanded", "true")
    instructions.click()
    expect(instructions).to_have_attribute("aria-expanded", "false")


@in_each_place
def test_stop_while_a_cell_runs(stage: Stage) -> None:
    workbench = stage.with_a_model()
    answer = stage.start_to_count()
    notice = stage.notebook.cell(BENCH)  # it stands above the workbench
    with stage.a_running_cell():
        stop_button(workbench).click()
        if stage.hears_while_busy:
            expect(answer).to_contain_text("stopped")
            stage.get_an_answer()
        else:
            expect(notice).to_contain_text("keeps the kernel busy", timeout=20_000)
    expect(notice).not_to_contain_text("keeps the kernel busy")
    if not stage.hears_while_busy:  # the press was not lost
        expect(send_button(workbench)).to_be_visible()
        expect(region(workbench, "Chat")).to_contain_text("stopped")
    stage.get_an_answer()


@in_each_place
def test_the_first_click_on_a_new_view_is_heard_while_a_cell_runs(stage: Stage) -> None:
    stage.notebook.run_cell(FRESH)
    plan = region(stage.view(FRESH), "Plan")
    with stage.a_running_cell():
        pick(stage.view(FRESH), "smollm", "smollm2-135m")
        if stage.hears_while_busy:
            expect(plan).to_contain_text("Runs with optimized-native")
    expect(plan).to_contain_text("Runs with optimized-native")


@in_one_place
def test_dark_is_dark(stage: Stage) -> None:
    workbench = stage.with_a_model()
    stage.notebook.use_theme("dark")
    background = workbench.evaluate("node => getComputedStyle(node).backgroundColor")
    brightness = [int(part) for part in re.findall(r"\d+", background)[:3]]
    assert max(brightness) < 80
    stage.notebook.screenshot(f"place-{stage.name}-dark")
    stage.notebook.use_theme("light")


@in_each_place
def test_the_keyboard_alone_is_enough(stage: Stage) -> None:
    stage.notebook.kernel_eval("session.conversation.clear()\nsession.manager.unload_all()")
    workbench, keyboard = stage.workbench, Keyboard(stage.notebook)
    plan, loading, chat, memory = (
        region(workbench, name) for name in ("Plan", "Loading", "Chat", "In memory")
    )
    stage.notebook.select_cell(BENCH)
    keyboard.go_to(workbench.get_by_label("Search models"))
    keyboard.type("smollm")
    expect(region(workbench, "Models").get_by_role("option")).to_have_count(1)
    keyboard.press("ArrowDown", "Enter")
    expect(plan).to_contain_text("Runs with optimized-native")

    keyboard.go_to(plan.get_by_label("KV strategy"))
    keyboard.press("ArrowDown")
    expect(plan).to_contain_text("It was asked for.")
    keyboard.press("ArrowUp")
    keyboard.go_to(plan.get_by_label("Context"))
    keyboard.type("1024")
    keyboard.press("Enter")
    load = loading.get_by_role("button", name="Load", exact=True)
    expect(load).to_be_enabled()
    keyboard.go_to(load)
    keyboard.press("Enter")
    expect(loading).to_contain_text("was loaded in", timeout=LONG_S)

    keyboard.go_to(chat.get_by_role("textbox", name="Message", exact=True))
    keyboard.type(COUNT)
    keyboard.go_to(send_button(workbench))
    keyboard.press("Enter")
    expect(last_answer(workbench)).to_contain_text(NUMBERS, timeout=LONG_S)
    keyboard.go_to(stop_button(workbench))
    keyboard.press("Space")
    expect(last_answer(workbench)).to_contain_text("stopped")
    expect(send_button(workbench)).to_be_visible()

    keyboard.go_to(chat.get_by_role("button", name="Edit", exact=True).last, "Shift+Tab")
    keyboard.press("Enter")
    expect(chat.get_by_role("textbox", name="Question")).to_be_focused()
    keyboard.type(QUESTION)
    keyboard.press("Enter")
    expect(last_answer(workbench)).to_contain_text("Paris", timeout=LONG_S)
    expect(send_button(workbench)).to_be_visible(timeout=LONG_S)

    keyboard.go_to(memory.get_by_role("button", name="Unload", exact=True))
    keyboard.press("Enter")
    expect(memory).to_contain_text("Nothing is loaded yet")
    assert not keyboard.lost, "\n".join(keyboard.lost)
    assert not keyboard.unseen, "\n".join(keyboard.unseen)


@in_one_place
def test_after_a_restart_amid_an_answer_a_click_says_what_to_do_and_doing_it_helps(
    stage: Stage,
) -> None:
    notebook, workbench = stage.notebook, stage.with_a_model()
    stage.start_to_count()
    notebook.restart_kernel()
    workbench.get_by_label("Search models").fill("smol")
    expect(workbench).to_contain_text("Run this cell again", timeout=20_000)
    notebook.run_cell(SETUP)
    notebook.run_cell(BENCH)
    stage.with_a_model()
    stage.get_an_answer()
    expect(workbench).not_to_contain_text("Run this cell again")
