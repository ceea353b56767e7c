"""What a model says, drawn in a real JupyterLab: rich, long, and hostile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.drawn import ATTRIBUTES, TAGS, wait_until_drawn
from tests.browser.jupyter_server import JupyterServer
from tests.browser.lab import SCREENSHOTS, Lab, NotebookPage
from tests.browser.untrusted import Watch, payloads, strangers

TURNS = 2_000
FEWER = 60
MOST_DRAWN_AT_ONCE = 8
SETUP = """\
from ollm_widgets import Chat, Session
session = Session()
def say(question, answer, state="done"):
    turn = session.conversation.transcript.ask(question)
    turn.pieces.append(answer)
    turn.state, turn.note = state, "24 tokens, 19.8 tokens/s"
    return turn
"""
CHAT = "Chat(session)"
RICH = r"""<think>
The **loss** is a mean. First $L$, then code.
</think>

## Mean squared error

With targets $y_i$ the loss is $L = \frac{1}{n}\sum_{i=1}^{n}(y_i-\hat{y}_i)^2$. It costs $5 to $10.

$$
A = \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}, \qquad \nabla_\theta L = \frac{2}{n} \sum_i x_i
$$

```python
def loss(y: Tensor, target: Tensor) -> float:
    '''Mean squared error.'''
    return float(((y - target) ** 2).mean())  # [batch, dim]
```

1. Install it:
   ```bash
   pip install "ollm-widgets" && ollm --version
   ```
2. Run it, with
   - one item
   - [x] another

| Layer | Kind | Bytes | Place | Seconds a token | What it does when the memory is full |
|---|:-:|--:|---|--:|---|
| 0 | attention | 1,204,224 | GPU | 0.0012 | stays where it is, since it is used first |
| 1 | experts | 98,304,000 | disk | 0.1034 | is read again for each token |

> A quote over
> two lines.

No TeX: $\nosuchcommand$.
"""
LONG = """
for number in range({turns} // 2):
    say(f"Question {{number}}", f"Answer **{{number}}**\\n\\n" + "A line of it.\\n\\n" * 10)
"""
# Every payload as itself, thought, inside code of a language, and inside a formula.
HOSTILE = r"""
from pathlib import Path
import json
for text in json.loads(Path({file!r}).read_text(encoding="utf-8")):
    code = "```html\n" + text + "\n```\n\n- ```js\n  " + text + "\n  ```"
    formulas = "$" + text + "$ \\(\\text{{" + text + "}}\\)\n\n$$\n" + text + "\n$$"
    say("?", "\n\n".join(("<think>" + text + "\n</think>", "So", code, formulas, text)))
"""
# Counts the articles in which anything changes, from the moment the conversation is there.
COUNT_CHANGES = """() => {
    window.touched = new Set();
    const article = (node) => (node.closest ? node : node.parentElement)?.closest('article');
    window.observer = new MutationObserver((records) => {
        for (const {target} of records) {
            const found = target.isConnected && article(target);
            if (found) window.touched.add(found);
        }
    });
    window.observer.observe(document.querySelector('[role=log]'), {
        childList: true, subtree: true, characterData: true, attributes: true,
    });
}"""
# The first time that a long conversation is in the page, before anything else can happen in it.
WATCH_FIRST_DRAWING = """() => new MutationObserver((_, observer) => {
    const articles = document.querySelectorAll('[role=log] article').length;
    if (!articles) return;
    observer.disconnect();
    window.first = [articles, document.querySelectorAll('[role=log] .ollm-markdown').length];
}).observe(document.body, {childList: true, subtree: true})"""
IS_AT_END = "log => log.scrollHeight - log.scrollTop - log.clientHeight < 24"


def open_chat(lab: Lab, *cells: str) -> tuple[NotebookPage, Locator]:
    notebook = lab.open_notebook([SETUP, *cells, CHAT])
    for index in range(len(cells) + 2):
        notebook.run_cell(index)
    chat = notebook.page.get_by_role("region", name="Chat", exact=True)
    expect(chat).to_be_visible()
    return notebook, chat


def log_of(chat: Locator) -> Locator:
    return chat.get_by_role("log", name="Conversation")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_rich_answer_is_drawn_well(lab: Lab, theme: Literal["light", "dark"]) -> None:
    filled = f'say("Explain the loss.", {RICH!r})\nsay("And?", "<think>Hm, so", "streaming");'
    notebook, chat = open_chat(lab, filled)
    notebook.use_theme(theme)
    answer = chat.get_by_role("article", name="model").first
    thoughts = answer.locator("details")
    expect(thoughts).to_have_js_property("open", False)
    expect(thoughts.locator("summary")).to_have_text("Thoughts, 9 words")
    expect(chat.get_by_text("Thinking… 2 words")).to_be_visible()
    expect(chat.get_by_text("Hm, so")).to_be_visible()
    expect(answer.locator("math")).to_have_count(4)
    expect(answer.locator("mjx-container")).to_have_count(0)
    expect(answer).to_contain_text("It costs $5 to $10.")
    expect(answer).to_contain_text("No TeX: \\nosuchcommand.")

    answer.get_by_role("button", name="Copy code").first.click()
    expect(answer.get_by_text("Copied")).to_be_visible()
    copied = notebook.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("def loss(")
    assert copied.endswith("# [batch, dim]")
    colours = answer.locator("pre code span").evaluate_all(
        "all => new Set(all.map(one => getComputedStyle(one).color)).size"
    )
    assert colours >= 4

    thoughts.locator("summary").click()
    expect(thoughts.locator("strong")).to_have_text("loss")
    log = log_of(chat)
    log.evaluate("log => { log.style.maxHeight = 'none' }")
    answer.scroll_into_view_if_needed()
    notebook.screenshot(f"conversation-{theme}")
    chat.evaluate("chat => { chat.style.width = '360px' }")
    table = answer.get_by_role("group", name="Table")
    table.focus()
    notebook.page.keyboard.press("ArrowRight")
    notebook.page.wait_for_function("table => table.scrollLeft > 0", arg=table.element_handle())
    assert log.evaluate("log => log.scrollWidth <= log.clientWidth")
    answer.screenshot(path=SCREENSHOTS / f"conversation-{theme}-360.png")


def test_two_thousand_turns_are_drawn_where_the_reader_is(lab: Lab) -> None:
    notebook = lab.open_notebook([SETUP, LONG.format(turns=TURNS), CHAT])
    notebook.run_cell(0)
    notebook.run_cell(1)
    notebook.page.evaluate(WATCH_FIRST_DRAWING)
    notebook.run_cell(2)
    log = log_of(notebook.page.get_by_role("region", name="Chat", exact=True))
    expect(log.get_by_role("article")).to_have_count(TURNS)
    articles, drawn = notebook.page.evaluate("window.first")
    assert articles == TURNS
    assert 0 < drawn <= MOST_DRAWN_AT_ONCE
    assert log.evaluate(IS_AT_END)

    # The browser's own search finds what is far away and not drawn.
    assert notebook.page.evaluate("window.find('Question 500', true, true)")
    notebook.page.evaluate("getSelection().anchorNode.parentElement.scrollIntoView()")
    expect(log.get_by_text("Question 500", exact=True)).to_be_in_viewport()
    expect(log.get_by_text("Answer 500", exact=True).locator("strong")).to_be_in_viewport()
    log.evaluate("log => { log.scrollTop = 0 }")
    first = log.get_by_role("article", name="model").first
    expect(first.locator("strong")).to_have_text("0")
    expect(first).to_be_in_viewport()
    jump = log.get_by_role("button", name="Jump to the end")
    expect(jump).to_be_visible()
    notebook.screenshot("conversation-long")
    jump.click()
    expect(log.get_by_role("article", name="model").last).to_be_in_viewport()
    expect(jump).to_have_count(0)
    expect(log).to_be_focused()


def test_an_answer_that_streams_touches_nothing_else(lab: Lab) -> None:
    notebook, chat = open_chat(lab, LONG.format(turns=FEWER))
    log = log_of(chat)
    # What is drawn in idle time has nothing to do with it.
    wait_until_drawn(log)
    notebook.kernel_eval('answer = say("More", "It", "streaming"); session._changed("chat")')
    expect(log.get_by_role("article")).to_have_count(FEWER + 2)
    last = log.get_by_role("article", name="model").last
    expect(last).to_contain_text("It")
    notebook.page.evaluate(COUNT_CHANGES)
    for number in range(20):
        notebook.kernel_eval(f"answer.pieces.append(' grows {number}'); session._changed('chat')")
    expect(last).to_contain_text("grows 19")
    assert log.evaluate(IS_AT_END)
    touched = notebook.page.evaluate("[...window.touched].length")
    assert touched == 1
    log.hover()
    notebook.page.mouse.wheel(0, -400)
    expect(log.get_by_role("button", name="Jump to the end")).to_be_visible()
    top = log.evaluate("log => log.scrollTop")
    notebook.kernel_eval("answer.pieces.append('\\n\\nmore' * 20); session._changed('chat')")
    expect(last).to_contain_text("more")
    assert log.evaluate("log => log.scrollTop") == top


@pytest.fixture
def hostile(
    lab_server: JupyterServer, chromium: Browser, tmp_path: Path
) -> Iterator[tuple[Locator, Watch]]:
    file = tmp_path / "payloads.json"
    file.write_text(json.dumps([one.text for one in payloads()]), encoding="utf-8")
    lab = Lab(lab_server, chromium, alone=True)
    notebook = lab.open_notebook([SETUP, HOSTILE.format(file=str(file)), CHAT])
    watch = Watch(notebook.page, lab_server.base_url)
    # A picture that is there and none, instead of one that is missed in the console.
    notebook.page.route(
        "**/no-such-picture", lambda route: route.fulfill(content_type="image/png", body="")
    )
    for index in range(3):
        notebook.run_cell(index)
    yield log_of(notebook.page.get_by_role("region", name="Chat", exact=True)), watch
    lab.close_notebooks()


def test_hostile_thoughts_code_and_formulas_are_only_text(hostile: tuple[Locator, Watch]) -> None:
    log, watch = hostile
    answers = log.get_by_role("article", name="model")
    expect(answers).to_have_count(len(payloads()), timeout=60_000)
    wait_until_drawn(log)
    inside = log.locator(".ollm-markdown *")
    assert strangers(inside, TAGS, ATTRIBUTES) == []
    assert log.locator("math").count() > 100
    styles = log.locator(".ollm-markdown [style]").evaluate_all(
        "all => all.map(one => one.getAttribute('style'))"
    )
    stray = re.compile(r"url|position|display|expression|var\(|@|[<>]", re.I)
    assert [style for style in styles if stray.search(style)] == []
    classes = set(
        log.locator(".ollm-markdown [class]").evaluate_all(
            "all => all.flatMap(one => [...one.classList])"
        )
    )
    assert {name for name in classes if not re.match(r"ollm-|tml-", name)} == set()
    # The pieces of code and formulas are thousands, and have nothing that could answer.
    watch.provoke(log.locator(".ollm-said :not(button, .ollm-code span, math *)"))
    watch.assert_nothing_happened()
