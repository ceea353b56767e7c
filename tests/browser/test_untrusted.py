"""What a model says and what files are called: shown in a real page, and nothing of it runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from tests.browser.drawn import ATTRIBUTES, TAGS, wait_until_drawn
from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import Lab, NotebookPage
from tests.browser.test_workbench import LONG_S, ask, last_answer, region, send_button
from tests.browser.untrusted import Payload, Watch, payloads, strangers
from tests.runtime.residency.other_kernel import other_kernels

MOST_FOLDERS = 60
PLANS = 8
CARELESS_URL = "http://careless.invalid/"
GIB = 1024**3
HELD = ["<img src=leak-0 onerror=__pwned(0)>", "idle", 300.0, {"ram": 8 * GIB}]
SETUP = """\
%load_ext ollm
import json, os
from pathlib import Path
home = Path({home!r})
os.environ["OLLM_MODELS_DIR"] = str(home / "models")
texts = json.loads((home / "payloads.json").read_text(encoding="utf-8"))
from IPython.display import HTML, Markdown, display
from ollm_widgets import GenerationConfig, RuntimeConfig, RuntimeManager, Session, Workbench
from ollm_widgets.runtime.residency.neighbours import KernelNeighbours
manager = RuntimeManager(neighbours=KernelNeighbours(home / "devices", "this notebook"))
session = Session(manager, GenerationConfig(max_new_tokens=160, temperature=1.0, seed=1))
"""
CONVERSATION = """\
session.conversation.clear()
for number, text in enumerate(texts):
    answer = session.conversation.transcript.ask(text)
    answer.pieces.append(f"Answer {number}\\n\\n{text}")
    answer.state, answer.note = ("failed" if number % 2 else "done"), text
session._changed("chat")
"""
LOAD = """\
from ollm_widgets.backends.base import LoadProgress
session.loading.begin(texts[0])
for text in texts:
    session.loading.report(LoadProgress("Download", 1, 2, text))
session._changed("loading")
"""
FAILURE = """\
from ollm_widgets import OllmError
session.loading.end("failed", OllmError("\\n".join(texts), hint="\\n".join(reversed(texts))))
session._changed("loading")
"""
CARDS = """\
from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.html import card_to_html
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.table_drawing import table_to_html, table_to_markdown
cards = [Card(text, text, text, rows=(Row(text, text),)) for text in texts]
rows = tuple(TableRow((text, text), text) for text in texts)
table = Table(texts[0], texts[0], (Column(texts[0], texts[0]),) * 2, rows, tuple(texts))
folders = sorted((home / "models").iterdir())
models = [manager.loader.resolve(folder) for folder in folders]
plannable = [folder for folder in folders if folder.name.isprintable()]
plans = [manager.loader.plan(RuntimeConfig(folder)) for folder in plannable[:{plans}]]
html = [*map(card_to_html, cards), table_to_html(table)]
html += [each.to_html() for each in (*models, *plans)]
markdown = [table_to_markdown(table), *(each.to_markdown() for each in (*models, *plans))]
# Of many outputs of a cell, JupyterLab would show the first ones.
display(HTML("".join(html)), Markdown("\\n\\n".join(markdown)))
""".replace("{plans}", str(PLANS))
PRINTS = """\
from ollm_widgets import OllmError
for text in texts:
    print(text)
raise OllmError("\\n".join(texts))
"""
CARD_TAGS = "section style div span dl dt dd table thead tbody tr th td br p"
CARD_ATTRIBUTES = "class aria-label scope"
WHATEVER_LOADS = "script, iframe, frame, object, embed, link, meta, base, form, img, video, audio"


@dataclass(frozen=True)
class Stage:
    """An open notebook with a workbench, where every text is hostile."""

    notebook: NotebookPage
    workbench: Locator
    watch: Watch
    home: Path
    texts: list[Payload]
    model: str


@pytest.fixture(scope="module")
def stage(
    lab_server: JupyterServer,
    chromium: Browser,
    saved_llama: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("untrusted")
    texts = payloads()
    file = home / "payloads.json"
    file.write_text(json.dumps([one.text for one in texts]), encoding="utf-8")
    model = write_models(home / "models", saved_llama, texts)
    lab = Lab(lab_server, chromium, alone=True)
    cells = [SETUP.format(home=str(home)), "Workbench(session)", CARDS, PRINTS]
    notebook = lab.open_notebook(cells)
    watch = Watch(notebook.page, lab_server.base_url)
    notebook.run_cell(0)
    notebook.run_cell(1)
    workbench = notebook.page.get_by_role("region", name="Workbench", exact=True)
    yield Stage(notebook, workbench, watch, home, texts, model)
    lab.close_notebooks()


def write_models(folder: Path, saved_llama: Path, texts: list[Payload]) -> str:
    """Folders that are called like payloads; one of them holds a model that says nothing else."""
    names = [one.text for one in texts if one.is_a_file_name]
    for name in names[:: -(-len(names) // MOST_FOLDERS)]:
        (folder / name).mkdir(parents=True)
        config = {"model_type": name, "architectures": [name], "_name_or_path": name}
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = next(one.text for one in texts if one.kind == "handler" and one.is_a_file_name)
    shutil.copytree(saved_llama, folder / model, dirs_exist_ok=True)
    tokenizer = folder / model / "tokenizer.json"
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    said = (one.text for one in texts if len(one.text) < 200)
    content["model"]["vocab"] = {
        (word if token < 10 else next(said)): token
        for word, token in content["model"]["vocab"].items()
    }
    tokenizer.write_text(json.dumps(content), encoding="utf-8")
    return model


def test_a_model_that_says_nothing_else_is_picked_loaded_and_heard(stage: Stage) -> None:
    workbench, memory = stage.workbench, region(stage.workbench, "In memory")
    workbench.get_by_label("Search models").fill("onerror")
    workbench.get_by_role("option", name=stage.model, exact=True).click()
    load = region(workbench, "Loading").get_by_role("button", name="Load", exact=True)
    expect(load).to_be_enabled(timeout=LONG_S)
    load.click()
    expect(region(workbench, "Loading")).to_contain_text("was loaded in", timeout=LONG_S)
    expect(memory.get_by_role("listitem", name=stage.model, exact=True)).to_be_visible()
    ask(workbench, stage.texts[0].text)
    expect(last_answer(workbench)).to_contain_text("tokens/s", timeout=LONG_S)
    expect(send_button(workbench)).to_be_visible(timeout=LONG_S)
    said = stage.notebook.kernel_eval(
        "answer = session.conversation.transcript.turns[-1]\n"
        "print(sum(text in answer.text for text in texts), answer.state)"
    )
    count, state = said.split()
    assert int(count) > 20
    assert state == "done"
    assert len(last_answer(workbench).inner_text()) > 200
    stage.watch.provoke(workbench.locator(".ollm-markdown *"))
    stage.watch.assert_nothing_happened()


def test_each_text_of_a_conversation_is_shown_as_text(stage: Stage) -> None:
    stage.notebook.kernel_eval(CONVERSATION)
    log = region(stage.workbench, "Chat").get_by_role("log", name="Conversation")
    expect(log.get_by_role("article")).to_have_count(2 * len(stage.texts), timeout=LONG_S)
    wait_until_drawn(log)
    asked = log.locator(".ollm-plain").evaluate_all("all => all.map(one => one.textContent)")
    assert asked == [one.text for one in stage.texts]
    # What is out of sight has no layout, and so no inner text.
    answers = log.get_by_role("article", name="model").all_text_contents()
    for number, answer in enumerate(answers):
        assert answer.startswith(f"modelAnswer {number}")
        assert len(answer) > len(f"model Answer {number}") + 3, stage.texts[number]
    assert strangers(log.locator(".ollm-markdown *"), TAGS, ATTRIBUTES) == []
    stage.watch.provoke(log.locator(".ollm-said :not(button)"))
    stage.watch.assert_nothing_happened()


def test_folders_are_listed_under_their_names(stage: Stage) -> None:
    stage.workbench.get_by_label("Search models").fill("")
    options = stage.workbench.get_by_role("option").locator(".ollm-option-name")
    folders = {folder.name for folder in (stage.home / "models").iterdir()}
    assert len(folders) > MOST_FOLDERS // 2
    expect(stage.workbench.get_by_role("option", name="constructor", exact=True)).to_be_visible()
    shown = set(options.evaluate_all("all => all.map(one => one.textContent)"))
    assert folders <= shown
    stage.watch.provoke(options)
    stage.watch.assert_nothing_happened()


def test_what_was_typed_comes_back_as_text(stage: Stage) -> None:
    search = stage.workbench.get_by_label("Search models")
    for text in ("<svg onload=__pwned(0)>", "[x](javascript:__pwned(0))"):
        search.fill(text)
        option = stage.workbench.get_by_role("option", name=text, exact=True)
        option.click()
        expect(region(stage.workbench, "Plan")).to_contain_text(text)
    stage.watch.assert_nothing_happened()


def test_names_of_files_and_errors_of_a_load_are_text(stage: Stage) -> None:
    loading = region(stage.workbench, "Loading")
    stage.notebook.kernel_eval(LOAD)
    files = loading.locator(".ollm-stage-file .ollm-stage-name")
    expect(files).to_have_count(len(stage.texts))
    shown = files.evaluate_all("all => all.map(one => one.textContent)")
    assert shown == [one.text for one in stage.texts]
    stage.watch.provoke(loading.locator(".ollm-stages *"))
    stage.notebook.kernel_eval(FAILURE)
    problem = loading.get_by_role("alert").locator("strong")
    expect(problem).to_be_visible()
    assert problem.text_content() == "\n".join(one.text for one in stage.texts)
    stage.watch.provoke(loading.locator(".ollm-problem-text *"))
    stage.watch.assert_nothing_happened()


def test_other_kernels_and_what_happened_are_told_as_text(stage: Stage) -> None:
    memory = region(stage.workbench, "In memory")
    title = '"><svg onload=__pwned(0)>'
    with other_kernels(stage.home / "devices", title) as (kernel,):
        kernel.tell("publish", HELD)
        stage.notebook.kernel_eval("session._changed('memory')")
        others = memory.get_by_role("list", name="Other kernels")
        expect(others.get_by_role("button", name="Ask to release")).to_have_accessible_description(
            title
        )
        expect(others).to_contain_text(title)
        others.get_by_role("button").click()
        expect(memory.get_by_role("status", name="Last change")).to_contain_text(f"Asked {title}")
    row = memory.get_by_role("listitem", name=stage.model, exact=True)
    row.get_by_role("button", name="Unload", exact=True).click()
    expect(memory).to_contain_text("Nothing is loaded yet", timeout=LONG_S)
    memory.get_by_text("History", exact=True).click()
    history = memory.get_by_role("list", name="History")
    for step in (f"Loaded {stage.model}.", f"Unloaded {stage.model}"):
        expect(history).to_contain_text(step)
    expect(region(stage.workbench, "Chat")).to_contain_text(f"{stage.model} was unloaded.")
    stage.notebook.screenshot("untrusted")
    stage.watch.assert_nothing_happened()


def test_cards_and_tables_hold_names_as_text(stage: Stage) -> None:
    stage.notebook.run_cell(2)
    output = stage.notebook.output(2)
    cards = output.locator("section.ollm-card")
    folders = len(list((stage.home / "models").iterdir()))
    expect(cards).to_have_count(len(stage.texts) + 1 + folders + PLANS)
    titles = cards.locator(".oc-title").evaluate_all("all => all.map(one => one.textContent)")
    # What is read as HTML loses its NUL and has one kind of line end.
    read = [one.text.replace("\0", "").replace("\r", "\n") for one in stage.texts]
    assert titles[: len(read)] == read
    expect(cards.locator("mjx-container")).to_have_count(0)
    assert strangers(cards, CARD_TAGS, CARD_ATTRIBUTES) == []
    assert strangers(cards.locator("*"), CARD_TAGS, CARD_ATTRIBUTES) == []
    for text in ("<script>__pwned(0)</script>", "![x](leak-252' onerror='__pwned(252))"):
        expect(output.locator(".jp-RenderedMarkdown")).to_contain_text(text)
    expect(output.locator(WHATEVER_LOADS)).to_have_count(0)
    stage.watch.provoke(output.locator(".jp-RenderedMarkdown *"))
    stage.watch.assert_nothing_happened()


def test_what_is_printed_and_raised_is_text(stage: Stage) -> None:
    stage.notebook.run_cell(3)
    output = stage.notebook.output(3)
    expect(output).to_contain_text("OllmError")
    expect(output).to_contain_text("<script>__pwned(0)</script>")
    expect(output.locator(WHATEVER_LOADS)).to_have_count(0)
    stage.watch.provoke(output.locator("*"))
    assert not stage.watch.ran
    assert not stage.watch.happened
    # JupyterLab makes a link of anything with "://" that is printed; in its new tab nothing runs.
    assert set(stage.watch.opened) <= {"about:blank"}


def test_a_page_that_takes_the_same_texts_for_html_runs_and_fetches_them(
    chromium: Browser,
) -> None:
    page = chromium.new_page()
    page.route("**", let_it_fail)
    page.goto(CARELESS_URL)
    watch = Watch(page, CARELESS_URL)
    for payload in payloads():
        page.set_content(f"<body>{payload.text}</body>")
        watch.provoke(page.locator("body *"))
        for opened in page.context.pages[1:]:
            opened.close()  # behind another one, a page gets little time
    assert len(watch.ran) > 100
    assert len({one for one in watch.happened if "evil.invalid" in one}) > 20
    assert len({one for one in watch.happened if "leak-" in one}) > 20
    page.context.close()


def let_it_fail(route: Route) -> None:
    if route.request.url == CARELESS_URL:
        route.fulfill(content_type="text/html", body="")
    else:
        # Aborted like this, the page stays where it is even if it was asked to leave.
        route.abort("aborted" if route.request.is_navigation_request() else "failed")
