"""Several models and little room: who waits, who leaves, who comes back, in a real page."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab, NotebookPage
from tests.browser.test_workbench import LONG_S, QUESTION, region

STORY = "Tell me a very long story about a lighthouse."
SOME_OF_IT = re.compile(r"[\s\S]{60}")
SETUP = """\
%load_ext ollm
from ollm_widgets import Chat, GenerationConfig, LoadPanel, RuntimeShelf, Session, default_session
manager = default_session().manager

def begin(other):
    global one, two
    manager.unload_all(force=True)
    manager.configure(max_loaded=None)
    one, two = (Session(generation=GenerationConfig(max_new_tokens=64)) for _both in range(2))
    one.choose("smollm2-135m")
    two.choose(other)
"""
PARTS = ("LoadPanel(one)", "Chat(one)", "LoadPanel(two)", "Chat(two)", "RuntimeShelf(one)")
CLOSE = "chat = Chat(one)\nchat.close()\nprint(len(manager.residents()))"
UNLOAD = "%ollm unload"


@pytest.fixture(scope="module")
def notebook(lab_server: JupyterServer, chromium: Browser) -> Iterator[NotebookPage]:
    """One for all tests; each begins with nothing in memory and sessions of its own."""
    lab = Lab(lab_server, chromium)
    notebook = lab.open_notebook([SETUP, *PARTS, CLOSE, UNLOAD])
    notebook.run_cell(0)
    yield notebook
    lab.close_notebooks()


def begin(notebook: NotebookPage, other: str) -> tuple[list[Locator], list[Locator], Locator]:
    """Two conversations, each with its panel, and one shelf; gives panels, chats and shelf."""
    notebook.kernel_eval(f"begin({other!r})")
    for number in range(1, 1 + len(PARTS)):
        notebook.run_cell(number)
    cells = [notebook.cell(number) for number in range(1, 6)]
    names = ("Loading", "Chat", "Loading", "Chat", "In memory")
    parts = [region(cell, name) for cell, name in zip(cells, names, strict=True)]
    return [parts[0], parts[2]], [parts[1], parts[3]], parts[4]


def press_load(panel: Locator) -> None:
    panel.get_by_role("button", name="Load", exact=True).click(timeout=LONG_S)


def ask(chat: Locator, text: str) -> None:
    chat.get_by_role("textbox", name="Message", exact=True).fill(text)
    chat.get_by_role("button", name="Send", exact=True).click()


def answer_of(chat: Locator) -> Locator:
    return chat.get_by_role("log", name="Conversation").get_by_role("article", name="model").last


def row(shelf: Locator, name: str) -> Locator:
    return shelf.get_by_role("listitem", name=name, exact=True)


def last_change(shelf: Locator) -> Locator:
    return shelf.get_by_role("status", name="Last change")


def test_with_room_for_one_model_the_second_waits_then_loads_and_the_first_comes_back(
    notebook: NotebookPage, other_model: str
) -> None:
    panels, chats, shelf = begin(notebook, other_model)
    notebook.kernel_eval("%ollm config max_loaded 1\n%ollm config busy_wait 10m")
    press_load(panels[0])
    expect(panels[0]).to_contain_text("was loaded in", timeout=LONG_S)
    expect(row(shelf, "smollm2-135m")).to_contain_text("used just now")
    held_bytes = int(notebook.kernel_eval("print(one.runtime.memory().host_weights_bytes)"))

    ask(chats[0], STORY)
    expect(answer_of(chats[0])).to_contain_text(SOME_OF_IT, timeout=LONG_S)
    press_load(panels[1])
    expect(panels[1]).to_contain_text("Waits for smollm2-135m, which is answering.")
    expect(row(shelf, "smollm2-copy")).to_contain_text("waits for smollm2-135m")
    expect(row(shelf, "smollm2-135m")).to_contain_text("answering")
    shelf.scroll_into_view_if_needed()
    notebook.screenshot("residency-waiting")

    expect(panels[1]).to_contain_text("was loaded in", timeout=LONG_S)
    expect(answer_of(chats[0])).to_contain_text("64 tokens")
    expect(chats[0]).to_contain_text("smollm2-135m left memory to make room for smollm2-copy.")
    expect(row(shelf, "smollm2-135m")).to_have_count(0)
    expect(row(shelf, "smollm2-copy")).to_contain_text("idle")
    expect(last_change(shelf)).to_have_text(
        re.compile(r"^Evicted smollm2-135m for smollm2-copy: \d+ MiB of RAM freed\.$")
    )
    shown = int(re.findall(r"(\d+) MiB", last_change(shelf).inner_text())[0])
    told = notebook.kernel_eval(
        "(event,) = [one for one in manager.history() if one.kind == 'evicted']\n"
        "print(event.change.freed_host_bytes, event.change.after.host_bytes)"
    )
    freed_bytes, left_bytes = map(int, told.split())
    assert shown == round(freed_bytes / 2**20)
    assert freed_bytes >= held_bytes
    assert left_bytes == 0
    shelf.scroll_into_view_if_needed()
    notebook.screenshot("residency-evicted")

    ask(chats[1], QUESTION)
    expect(answer_of(chats[1])).to_contain_text("Paris", timeout=LONG_S)
    expect(chats[1].get_by_role("button", name="Send")).to_be_visible(timeout=LONG_S)
    chats[0].get_by_role("button", name="Load again").click()
    expect(panels[0]).to_contain_text("was loaded in", timeout=LONG_S)
    expect(chats[1]).to_contain_text("smollm2-copy left memory to make room for smollm2-135m.")
    ask(chats[0], QUESTION)
    expect(answer_of(chats[0])).to_contain_text(re.compile(r"\w"), timeout=LONG_S)
    expect(chats[0].get_by_role("article", name="model")).to_have_count(2)
    shelf.get_by_text("History", exact=True).click()
    history = shelf.get_by_role("list", name="History")
    for step in ("Loaded smollm2-copy.", "smollm2-copy waits", "Evicted smollm2-copy"):
        expect(history).to_contain_text(step)
    shelf.scroll_into_view_if_needed()
    notebook.screenshot("residency-back")
    notebook.use_theme("dark")
    shelf.scroll_into_view_if_needed()
    notebook.screenshot("residency-dark")
    notebook.use_theme("light")
    notebook.assert_no_console_errors()


def test_a_model_that_answers_is_unloaded_only_after_a_question(notebook: NotebookPage) -> None:
    panels, chats, shelf = begin(notebook, "smollm2-135m")
    press_load(panels[0])
    expect(panels[0]).to_contain_text("was loaded in", timeout=LONG_S)
    ask(chats[0], STORY)
    expect(answer_of(chats[0])).to_contain_text(SOME_OF_IT, timeout=LONG_S)
    unload = row(shelf, "smollm2-135m").get_by_role("button", name="Unload", exact=True)
    unload.click()
    question = shelf.get_by_role("alertdialog")
    expect(question).to_contain_text("smollm2-135m is answering. Unload it?")
    shelf.scroll_into_view_if_needed()
    notebook.screenshot("residency-question")
    question.get_by_role("button", name="Keep").click()
    expect(unload).to_be_focused()
    expect(row(shelf, "smollm2-135m")).to_be_visible()
    unload.click()
    question.get_by_role("button", name="Stop and unload").click()
    expect(shelf).to_contain_text("Nothing is loaded yet", timeout=LONG_S)
    expect(last_change(shelf)).to_contain_text(re.compile(r"\d+ MiB of RAM freed"))
    expect(answer_of(chats[0])).to_contain_text("stopped")
    expect(answer_of(chats[0])).to_contain_text(SOME_OF_IT)
    expect(chats[0]).to_contain_text("smollm2-135m was unloaded.")
    notebook.assert_no_console_errors()


def test_a_second_question_shows_its_place_and_pinned_models_stay(notebook: NotebookPage) -> None:
    panels, chats, shelf = begin(notebook, "smollm2-135m")
    for panel, came in zip(panels, ("was loaded in", "was in memory already"), strict=True):
        press_load(panel)
        expect(panel).to_contain_text(came, timeout=LONG_S)
    ask(chats[0], STORY)
    expect(answer_of(chats[0])).to_contain_text(SOME_OF_IT, timeout=LONG_S)
    ask(chats[1], QUESTION)
    expect(answer_of(chats[1])).to_contain_text("1 answer before this one")
    expect(row(shelf, "smollm2-135m")).to_contain_text("1 waiting")
    chats[1].scroll_into_view_if_needed()
    notebook.screenshot("residency-queue")
    expect(answer_of(chats[1])).to_contain_text("Paris", timeout=LONG_S)
    row(shelf, "smollm2-135m").get_by_role("button", name="Pin", exact=True).click()
    expect(row(shelf, "smollm2-135m")).to_contain_text("pinned")
    expect(last_change(shelf)).to_have_text("Pinned smollm2-135m: it stays in memory.")
    notebook.assert_no_console_errors()


def test_closing_a_widget_keeps_the_model_and_the_command_unloads_it(
    notebook: NotebookPage,
) -> None:
    panels, _chats, shelf = begin(notebook, "smollm2-135m")
    press_load(panels[0])
    expect(panels[0]).to_contain_text("was loaded in", timeout=LONG_S)
    notebook.run_cell(6)
    expect(notebook.output(6)).to_contain_text("1")
    expect(row(shelf, "smollm2-135m")).to_be_visible()
    notebook.kernel_eval("default_session().use(one.runtime_id)")
    notebook.run_cell(7)
    expect(notebook.output(7)).to_contain_text(re.compile(r"smollm2-135m: \d+ MiB of RAM freed\."))
    expect(shelf).to_contain_text("Nothing is loaded yet")
    notebook.assert_no_console_errors()
