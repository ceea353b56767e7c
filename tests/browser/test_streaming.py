"""A fast answer in a page full of widgets: nothing is lost, and the page still takes a click.

`tests/bench/streaming.py` measures how fast it is.
"""

from __future__ import annotations

import ast
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.gauges import open_widgets, shown
from tests.browser.lab import Lab

TOKENS_PER_S, SECONDS = 1000, 5
TOKENS = TOKENS_PER_S * SECONDS
LONG_S = 120_000  # Playwright counts in milliseconds
# The answer does not end before the click has been heard, however slow the machine is.
ANSWER = f"""\
def pinned():
    return session.manager.residents()[0].pinned
def step():
    return len(came) == {TOKENS - TOKENS_PER_S} and synthetic.wait(pinned, {LONG_S // 1000})
came = synthetic.answer_at(runtime, synthetic.Pace({TOKENS}, {TOKENS_PER_S}, step))
session.send("go")
"""


def test_a_thousand_tokens_a_second_reach_every_view_while_the_page_takes_clicks(
    lab: Lab, saved_llama: Path
) -> None:
    notebook, logs = open_widgets(lab, saved_llama)
    notebook.kernel_eval(ANSWER)
    shelf = notebook.page.get_by_role("region", name="Workbench", exact=True).get_by_role(
        "region", name="In memory", exact=True
    )
    shelf.get_by_role("button", name="Pin", exact=True).click(timeout=LONG_S)
    expect(shelf.get_by_role("button", name="Unpin", exact=True)).to_be_visible(timeout=LONG_S)

    notebook.kernel_eval(
        f"synthetic.wait(lambda: not session.running, {LONG_S // 1000})", LONG_S / 1000
    )
    kernel = ast.literal_eval(notebook.kernel_eval("print(synthetic.said(session))"))
    assert (kernel["state"], kernel["words"]) == ("done", TOKENS)
    for log in logs:
        expect(log).to_contain_text(f"{TOKENS} tokens", timeout=LONG_S)
        assert shown(log) == {"words": TOKENS, "digest": kernel["digest"]}
    notebook.assert_no_console_errors()
