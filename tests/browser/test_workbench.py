"""A person's way through the workbench, on a real JupyterLab with the real small model."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab, NotebookPage

QUESTION = "What is the capital of France?"
OPEN = ["%load_ext ollm\nfrom ollm_widgets import Workbench, default_session", "%ollm"]
SETUP = "%load_ext ollm\nfrom ollm_widgets import RuntimeManager, Session, Workbench"
OWN = "Workbench(Session(RuntimeManager()))"
LONG_S = 120_000  # Playwright counts in milliseconds


def open_workbench(lab: Lab, *more_cells: str) -> tuple[NotebookPage, Locator]:
    notebook = lab.open_notebook([*OPEN, *more_cells])
    notebook.run_cell(0)
    notebook.run_cell(1)
    workbench = notebook.page.get_by_role("region", name="Workbench", exact=True)
    expect(workbench).to_be_visible()
    return notebook, workbench


@pytest.fixture(scope="module")
def used(lab_server: JupyterServer, chromium: Browser) -> Iterator[NotebookPage]:
    """A notebook that several tests use one after the other, each with a session of its own."""
    lab = Lab(lab_server, chromium)
    notebook = lab.open_notebook([SETUP, OWN])
    notebook.run_cell(0)
    yield notebook
    lab.close_notebooks()


def open_again(used: NotebookPage) -> Locator:
    used.run_cell(1)
    workbench = used.page.get_by_role("region", name="Workbench", exact=True)
    expect(region(workbench, "Plan")).to_contain_text("Pick a model")
    return workbench


def region(root: Locator, name: str) -> Locator:
    return root.get_by_role("region", name=name, exact=True)


def pick(workbench: Locator, text: str, name: str) -> None:
    workbench.get_by_label("Search models").fill(text)
    workbench.get_by_role("option", name=name, exact=True).click()


def load_model(workbench: Locator) -> None:
    pick(workbench, "smollm", "smollm2-135m")
    load_what_is_planned(workbench)


def load_what_is_planned(workbench: Locator) -> None:
    expect(region(workbench, "Plan")).to_contain_text("Runs with optimized-native")
    region(workbench, "Loading").get_by_role("button", name="Load", exact=True).click()
    expect(region(workbench, "Loading")).to_contain_text("was loaded in", timeout=LONG_S)


def ask(workbench: Locator, text: str) -> None:
    chat = region(workbench, "Chat")
    chat.get_by_role("textbox", name="Message", exact=True).fill(text)
    chat.get_by_role("button", name="Send", exact=True).click()


def last_answer(workbench: Locator) -> Locator:
    conversation = region(workbench, "Chat").get_by_role("log", name="Conversation")
    return conversation.get_by_role("article", name="model").last


def send_button(workbench: Locator) -> Locator:
    return region(workbench, "Chat").get_by_role("button", name="Send", exact=True)


def stop_button(workbench: Locator) -> Locator:
    return region(workbench, "Chat").get_by_role("button", name="Stop", exact=True)


def record_growth(answer: Locator) -> None:
    """Remember every length that the conversation's text has had."""
    answer.page.evaluate(
        """() => {
            const log = document.querySelector('[role=log]');
            window.lengths = new Set();
            new MutationObserver(() => {
                const model = [...log.querySelectorAll('article[aria-label=model]')].at(-1);
                if (model) window.lengths.add(model.textContent.length);
            }).observe(log, {childList: true, subtree: true, characterData: true});
        }"""
    )


def test_pick_plan_load_chat_stop_and_a_second_question(lab: Lab) -> None:
    notebook, workbench = open_workbench(lab)
    expect(region(workbench, "Plan")).to_contain_text("Pick a model")
    load_model(workbench)
    expect(region(workbench, "Capabilities")).to_contain_text("optimized")
    expect(region(workbench, "In memory")).to_contain_text("smollm2-135m")
    notebook.screenshot("workbench-loaded")

    record_growth(workbench)
    ask(workbench, QUESTION)
    expect(last_answer(workbench)).to_contain_text("Paris", timeout=LONG_S)
    expect(send_button(workbench)).to_be_visible(timeout=LONG_S)
    assert notebook.page.evaluate("window.lengths.size") > 2, "the text came in one piece"

    ask(workbench, "Tell me a very long story about a lighthouse.")
    # More than the note that the prompt is being read: some of the story itself.
    expect(last_answer(workbench)).to_contain_text(re.compile(r"[\s\S]{60}"), timeout=LONG_S)
    stop_button(workbench).click()
    expect(last_answer(workbench)).to_contain_text("stopped")
    kept = last_answer(workbench).text_content() or ""
    ask(workbench, QUESTION)
    expect(last_answer(workbench)).to_contain_text("Paris", timeout=LONG_S)
    expect(send_button(workbench)).to_be_visible(timeout=LONG_S)
    assert len(kept) > 20
    notebook.screenshot("workbench-chat")

    ask(workbench, "Repeat this. " + "word " * 1200)
    # Its prompt is still being read: there is no token yet.
    stop_button(workbench).click()
    expect(last_answer(workbench)).to_contain_text("stopped")


def test_with_pages_a_second_question_says_what_was_not_computed_again(used: NotebookPage) -> None:
    workbench = open_again(used)
    pick(workbench, "smollm", "smollm2-135m")
    plan = region(workbench, "Plan")
    plan.get_by_label("KV strategy").select_option("paged")
    expect(plan).to_contain_text("KV cache: paged. It was asked for.")
    load_what_is_planned(workbench)
    expect(plan).to_contain_text("KV cache: paged. It was asked for.")
    ask(workbench, QUESTION)
    expect(last_answer(workbench)).to_contain_text("Paris", timeout=LONG_S)
    expect(send_button(workbench)).to_be_visible(timeout=LONG_S)
    expect(last_answer(workbench)).not_to_contain_text("reused")
    ask(workbench, "And of Italy?")
    expect(last_answer(workbench)).to_contain_text("prompt tokens reused", timeout=LONG_S)
    used.screenshot("workbench-pages")


def test_what_cannot_run_says_why_and_the_next_choice_works(used: NotebookPage) -> None:
    workbench = open_again(used)
    load = region(workbench, "Loading").get_by_role("button", name="Load", exact=True)
    for typed, message in (
        ("no-such-model", "no-such-model"),
        ("./no/such/folder", "no such folder"),
        ("meta-llama/Llama-3.2-1B-Instruct", "not on this machine"),
    ):
        workbench.get_by_label("Search models").fill(typed)
        region(workbench, "Models").get_by_role("option").last.click()
        expect(region(workbench, "Plan")).to_contain_text(message)
        expect(load).to_be_disabled()
        pick(workbench, "smollm", "smollm2-135m")
        expect(load).to_be_enabled()


def test_typed_keys_do_not_reach_the_notebook(used: NotebookPage) -> None:
    workbench = open_again(used)
    before = used.page.locator(".jp-Notebook .jp-Cell").count()
    used.page.keyboard.press("Escape")
    search = workbench.get_by_label("Search models")
    search.click()
    search.press_sequentially("a b dd x y")
    expect(search).to_have_value("a b dd x y")
    assert used.page.locator(".jp-Notebook .jp-Cell").count() == before


WIDGETS = {
    "ModelPicker": "Models",
    "PlanEditor": "Plan",
    "LoadPanel": "Loading",
    "CapabilityCard": "Capabilities",
    "Chat": "Chat",
    "RuntimeShelf": "In memory",
    "Activity": "Activity",
}


def test_each_part_works_alone_and_all_of_them_belong_together(lab: Lab) -> None:
    cells = [f"from ollm_widgets import {', '.join(WIDGETS)}", *(f"{name}()" for name in WIDGETS)]
    notebook = lab.open_notebook(cells)
    notebook.run_all()
    parts = {
        label: notebook.page.get_by_role("region", name=label, exact=True)
        for label in WIDGETS.values()
    }
    for part in parts.values():
        expect(part).to_be_visible()
    parts["Models"].get_by_label("Search models").fill("smollm")
    parts["Models"].get_by_role("option", name="smollm2-135m", exact=True).click()
    parts["Loading"].get_by_role("button", name="Load", exact=True).click()
    expect(parts["Loading"]).to_contain_text("was loaded in", timeout=LONG_S)
    expect(parts["Capabilities"]).to_contain_text("8,192 tokens")
    parts["Chat"].get_by_role("textbox", name="Message", exact=True).fill(QUESTION)
    parts["Chat"].get_by_role("button", name="Send", exact=True).click()
    expect(parts["Chat"].get_by_role("article", name="model")).to_contain_text(
        "Paris", timeout=LONG_S
    )
    expect(parts["In memory"]).to_contain_text("used just now", timeout=LONG_S)
    # Until the answer is over, to unload the model would be a question.
    expect(parts["Chat"].get_by_role("button", name="Send", exact=True)).to_be_visible(
        timeout=LONG_S
    )
    parts["In memory"].get_by_role("button", name="Unload", exact=True).click()
    expect(parts["In memory"]).to_contain_text("Nothing is loaded yet")


def test_a_plan_is_edited_in_place_and_an_impossible_value_says_what_is_wrong(
    used: NotebookPage,
) -> None:
    workbench = open_again(used)
    pick(workbench, "smollm", "smollm2-135m")
    plan = region(workbench, "Plan")
    plan.get_by_label("KV strategy").select_option("sliding-window-ring-buffer")
    expect(plan).to_contain_text("256")
    context = plan.get_by_label("Context")
    context.fill("99999999")
    context.press("Enter")
    load = region(workbench, "Loading").get_by_role("button", name="Load", exact=True)
    expect(load).to_be_disabled()
    context.fill("1024")
    context.press("Enter")
    expect(load).to_be_enabled()
    workbench.get_by_role("button", name="Copy as code").click()
    copied = used.page.evaluate("navigator.clipboard.readText()")
    assert "context_tokens=1024" in copied
    assert "sliding-window-ring-buffer" in copied


def test_a_load_can_be_cancelled_and_started_again(used: NotebookPage) -> None:
    workbench = open_again(used)
    used.kernel_eval(
        # Reading is slowed down, not replaced, so that there is time to press Cancel.
        "from ollm_widgets.weights.placing import Placer\n"
        "_bring = Placer.bring\n"
        "def _slowly(self, home, tier, cancel, count):\n"
        "    cancel.wait(0.2)\n"
        "    _bring(self, home, tier, cancel, count)\n"
        "Placer.bring = _slowly\n"
    )
    pick(workbench, "smollm", "smollm2-135m")
    loading = region(workbench, "Loading")
    loading.get_by_role("button", name="Load", exact=True).click()
    expect(loading.get_by_role("progressbar", name="Read weights")).to_be_visible(timeout=LONG_S)
    loading.get_by_role("button", name="Cancel", exact=True).click()
    expect(loading).to_contain_text("was cancelled", timeout=LONG_S)
    used.kernel_eval("Placer.bring = _bring")
    loading.get_by_role("button", name="Load", exact=True).click()
    expect(loading).to_contain_text("was loaded in", timeout=LONG_S)
    used.assert_no_console_errors()
