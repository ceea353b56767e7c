"""The chat's own controls, on a real JupyterLab with the real small model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab, NotebookPage

LONG_S = 120_000  # Playwright counts in milliseconds
QUESTION = "What is the capital of France?"
OPEN = """\
%load_ext ollm
from ipywidgets import Box, Layout
from ollm_widgets import Chat, GenerationConfig, RuntimeConfig, Session, default_session

with default_session().manager.acquire(RuntimeConfig("smollm2-135m")) as lease:
    loaded = lease.id

def begin():
    global session
    session = Session(generation=GenerationConfig(max_new_tokens=12))
    session.use(loaded)
    return session
"""
# A cell of its own for each, so that a test sees what it has shown itself.
PLAIN = "Chat(begin())"
WIDTHS = (360, 1000)
SHOWN = [
    PLAIN,
    *(f"Box([Chat(begin())], layout=Layout(width='{w + 24}px', display='block'))" for w in WIDTHS),
]
PNG = b"\x89PNG\r\n\x1a\n and more"


@pytest.fixture(scope="module")
def notebook(lab_server: JupyterServer, chromium: Browser) -> Iterator[NotebookPage]:
    """A notebook with the model loaded; each test begins a conversation of its own there."""
    lab = Lab(lab_server, chromium)
    notebook = lab.open_notebook([OPEN, *SHOWN])
    notebook.run_cell(0, timeout_s=120)
    yield notebook
    lab.close_notebooks()


def begin_chat(notebook: NotebookPage, shown: str = PLAIN) -> Locator:
    cell = 1 + SHOWN.index(shown)
    notebook.run_cell(cell)
    chat = chat_in(notebook, cell)
    expect(chat).to_be_visible()
    expect(articles(chat, "you")).to_have_count(0)
    return chat


def chat_in(notebook: NotebookPage, cell: int) -> Locator:
    return notebook.output(cell).get_by_role("region", name="Chat", exact=True)


def button(root: Locator, name: str) -> Locator:
    return root.get_by_role("button", name=name, exact=True)


def articles(chat: Locator, speaker: str) -> Locator:
    return chat.get_by_role("log", name="Conversation").get_by_role("article", name=speaker)


def last_answer(chat: Locator) -> str:
    """Wait until no answer runs; gives the text of the last one."""
    expect(button(chat, "Send")).to_be_visible(timeout=LONG_S)
    return articles(chat, "model").last.locator(".ollm-markdown").inner_text()


def ask(chat: Locator, text: str) -> str:
    before = articles(chat, "model").count()
    chat.get_by_role("textbox", name="Message", exact=True).fill(text)
    button(chat, "Send").click()
    expect(articles(chat, "model")).to_have_count(before + 1, timeout=LONG_S)
    return last_answer(chat)


def retry(chat: Locator, version: int) -> str:
    button(articles(chat, "model").last, "Retry").click()
    expect(articles(chat, "model").last).to_contain_text(f"{version} / {version}", timeout=LONG_S)
    return last_answer(chat)


def test_a_question_branches_and_every_version_comes_back(notebook: NotebookPage) -> None:
    chat = begin_chat(notebook)
    likeliest = ask(chat, QUESTION)
    assert "Paris" in likeliest
    ask(chat, "And of Italy?")

    first_question = articles(chat, "you").first
    first_question.hover()
    button(first_question, "Edit").click()
    chat.get_by_role("textbox", name="Question").fill("Name one river.")
    button(chat, "Save").click()
    expect(articles(chat, "you")).to_have_count(1, timeout=LONG_S)
    last_answer(chat)
    expect(articles(chat, "you")).to_contain_text("2 / 2")
    # The pointer would lie on the buttons of the turn.
    notebook.page.mouse.move(0, 0)

    button(chat, "Previous version").click()
    expect(articles(chat, "you")).to_have_count(2)
    expect(articles(chat, "you").last).to_contain_text("And of Italy?")
    expect(articles(chat, "you").first).to_contain_text("1 / 2")
    expect(articles(chat, "model").first).to_contain_text("Paris")
    # Whoever pages on with the keyboard keeps the button, though the article is another one.
    expect(button(chat, "Previous version")).to_be_focused()
    button(chat, "Next version").press("Enter")
    expect(articles(chat, "you")).to_have_count(1)
    expect(articles(chat, "you")).to_contain_text("Name one river.")
    expect(button(chat, "Next version")).to_be_focused()

    notebook.reload()
    expect(articles(chat, "you")).to_contain_text("2 / 2")
    notebook.assert_no_console_errors()


def test_settings_and_instructions_apply_to_the_next_answer(notebook: NotebookPage) -> None:
    chat = begin_chat(notebook)
    likeliest = ask(chat, QUESTION)
    button(chat, "Settings").click()
    expect(button(chat, "Exact")).to_have_attribute("aria-pressed", "true")
    button(chat, "Creative").click()
    expect(chat.get_by_label("Temperature")).to_have_value("1.1")
    chat.get_by_label("Temperature").fill("2.5")
    chat.get_by_label("Seed").fill("7")
    chat.get_by_label("Seed").blur()
    expect(button(chat, "Creative")).to_have_attribute("aria-pressed", "false")
    sampled = retry(chat, 2)
    assert sampled != likeliest
    assert retry(chat, 3) == sampled
    chat.get_by_label("Top p").fill("3")
    chat.get_by_label("Top p").blur()
    expect(chat).to_contain_text("Write a number above 0 up to 1.")
    notebook.screenshot("chat-settings")
    button(chat, "Exact").click()
    expect(chat).not_to_contain_text("Write a number above 0 up to 1.")
    assert retry(chat, 4) == likeliest

    button(chat, "Instructions").click()
    chat.get_by_role("textbox", name="Instructions").fill("Answer in French.")
    chat.get_by_role("textbox", name="Instructions").blur()
    expect(button(chat, "Instructions")).to_contain_text("set")
    assert retry(chat, 5) != likeliest
    read, told = notebook.kernel_eval(
        "messages = session.conversation.messages()\n"
        "ids = session.runtime.tokenizer.apply_chat_template("
        "messages[:2], add_generation_prompt=True)['input_ids']\n"
        "print(session.conversation.last.prompt_tokens == len(ids), messages[0])"
    ).split(" ", 1)
    assert (read, told) == ("True", "{'role': 'system', 'content': 'Answer in French.'}")
    notebook.assert_no_console_errors()


def test_a_text_file_is_read_and_a_picture_is_refused_with_the_reason(
    notebook: NotebookPage, tmp_path: Path
) -> None:
    chat = begin_chat(notebook)
    notes, picture = tmp_path / "notes.txt", tmp_path / "photo.png"
    notes.write_text("The code word is heron.\n", encoding="utf-8")
    picture.write_bytes(PNG)
    files = chat.get_by_label("Files to attach")
    files.set_input_files(picture)
    expect(chat.get_by_role("alert")).to_contain_text("photo.png: smollm2-135m takes text only.")
    files.set_input_files(notes)
    waiting = chat.get_by_role("list", name="Attachments")
    expect(waiting).to_contain_text("notes.txt24 B")
    expect(chat.get_by_role("alert")).to_have_count(0)
    ask(chat, "What is the code word?")
    expect(waiting).to_have_count(1)  # it has gone with the question
    expect(articles(chat, "you")).to_contain_text("notes.txt24 B")
    expect(articles(chat, "you")).not_to_contain_text("heron")
    asked = notebook.kernel_eval("print(session.conversation.messages()[0]['content'])")
    assert asked == (
        "File `notes.txt`:\n```txt\nThe code word is heron.\n```\n\nWhat is the code word?"
    )
    notebook.assert_no_console_errors()
    assert notebook.outside_requests == []


def test_a_large_picture_arrives_whole_and_shows_itself(
    notebook: NotebookPage, tmp_path: Path
) -> None:
    from PIL import Image

    chat = begin_chat(notebook)
    # Only the way to the kernel is looked at here: this model cannot see.
    notebook.kernel_eval("session.__class__ = type('Seeing', (Session,), {'image_obstacle': ''})")
    noise = Image.effect_noise((1600, 1200), 100)
    Image.merge("RGB", (noise, noise.rotate(180), noise.rotate(90))).save(tmp_path / "photo.png")
    size_bytes = (tmp_path / "photo.png").stat().st_size
    assert size_bytes > 2 * 2**21  # more than two pieces
    chat.get_by_label("Files to attach").set_input_files(tmp_path / "photo.png")
    waiting = chat.get_by_role("list", name="Attachments")
    expect(waiting).to_contain_text("photo.png")
    expect(waiting.locator("img")).to_be_visible()
    assert notebook.kernel_eval("print(len(session.conversation.tray.items[0].image))") == str(
        size_bytes
    )
    ask(chat, "What is this?")
    expect(articles(chat, "model")).to_contain_text("smollm2-135m takes text only")
    expect(articles(chat, "you").locator("img")).to_be_visible()
    notebook.screenshot("chat-picture")
    notebook.assert_no_console_errors()


def test_the_conversation_is_taken_elsewhere(notebook: NotebookPage, tmp_path: Path) -> None:
    chat = begin_chat(notebook)
    answer = ask(chat, QUESTION)
    button(articles(chat, "model").last, "Copy").click()
    read = "navigator.clipboard.readText()"
    expect(articles(chat, "model").last).to_contain_text("Copied")
    assert answer.split() == notebook.page.evaluate(read).split()

    button(chat, "Export").click()
    button(chat, "Copy as Python").click()
    beside = button(chat, "Copy as Python").locator("xpath=..").get_by_role("status")
    expect(beside).to_have_text("Copied")
    code = notebook.page.evaluate(read)
    assert (
        notebook.kernel_eval(
            f"scope = {{}}\nexec({json.dumps(code)}, scope)\n"
            "print(scope['messages'] == session.conversation.messages())"
        )
        == "True"
    )
    with notebook.page.expect_download() as download:
        button(chat, "Save as Markdown").click()
    assert download.value.suggested_filename == "conversation.md"
    download.value.save_as(tmp_path / "saved.md")
    saved = (tmp_path / "saved.md").read_text(encoding="utf-8")
    assert re.search(rf"## You\s+{re.escape(QUESTION)}\s+## Model\s+.*Paris", saved, re.DOTALL)
    notebook.assert_no_console_errors()


@pytest.mark.parametrize(("width", "shown"), list(zip(WIDTHS, SHOWN[1:], strict=True)), ids=WIDTHS)
def test_the_chat_is_usable_narrow_wide_light_and_dark(
    notebook: NotebookPage, width: int, shown: str, tmp_path: Path
) -> None:
    chat = begin_chat(notebook, shown)
    notebook.page.set_viewport_size({"width": max(width + 200, 600), "height": 1100})
    notes = tmp_path / "a long name of a file that a person wants to talk about.txt"
    notes.write_text("Rivers: Seine, Loire.\n", encoding="utf-8")
    chat.get_by_label("Files to attach").set_input_files(notes)
    expect(chat.get_by_role("list", name="Attachments")).to_be_visible()
    ask(chat, "Which rivers are in the file?")
    retry(chat, 2)
    ask(chat, QUESTION)
    chat.get_by_label("Files to attach").set_input_files(notes)
    expect(chat.get_by_role("list", name="Attachments").last).to_be_visible()
    button(chat, "Instructions").click()
    chat.get_by_role("textbox", name="Instructions").fill("Answer in one sentence.")
    button(chat, "Settings").click()
    overflowing = chat.evaluate("region => region.scrollWidth > region.clientWidth + 1")
    assert not overflowing
    notebook.page.mouse.move(0, 0)
    notebook.use_theme("light")
    notebook.screenshot(f"chat-{width}-light")
    notebook.use_theme("dark")
    notebook.screenshot(f"chat-{width}-dark")
    notebook.use_theme("light")
    notebook.assert_no_console_errors()
