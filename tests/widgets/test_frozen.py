from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets import Chat, ModelPicker, PlanEditor, Session, Workbench
from ollm_widgets.render.talk import Said, talk_to_html, talk_to_markdown, talk_to_text
from ollm_widgets.widgets.base import SessionWidget
from tests.session.tiny import CopyModel
from tests.session.waiting import load, settled


class Page(HTMLParser):
    """Collects tags, attributes, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str] = {}
        self.words = ""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        self.attributes |= {name: value or "" for name, value in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.words += f" {data}"


def seen(widget: SessionWidget) -> Page:
    return Page(widget.freeze().to_html())


def closed(widget: SessionWidget) -> SessionWidget:
    widget.close()
    return widget


def test_a_workbench_keeps_model_plan_load_answers_and_memory(
    session: Session, copy_model: CopyModel
) -> None:
    load(session, copy_model("tiny"))
    session.send("w3 <b>w4</b>")
    settled(session)
    workbench = Workbench(session)
    frozen = workbench.freeze()
    page = Page(frozen.to_html())
    workbench.close()
    answer = session.conversation.transcript.turns[-1].text
    told = (
        *("tiny", "Runs with", "Predicted", "RAM", "layers", "was loaded in"),
        *("w3 <b>w4</b>", answer, "tokens/s", "In memory", "Capabilities"),
    )
    for words in told:
        assert words in page.words, words
        assert words in " ".join(frozen.to_text().split()), words
    assert "img" in page.attributes["role"]
    assert "script" not in page.tags
    assert "src" not in page.attributes
    assert "href" not in page.attributes
    assert f"```text\n{answer}\n```" in frozen.to_markdown()


@pytest.mark.parametrize(
    ("kind", "has", "has_not"),
    [
        (Chat, "w3", "Predicted"),
        (PlanEditor, "Predicted", "w3"),
        (ModelPicker, "Models", "Predicted"),
    ],
)
def test_a_part_keeps_what_it_shows(
    kind: type[SessionWidget], has: str, has_not: str, session: Session, copy_model: CopyModel
) -> None:
    load(session, copy_model("tiny"))
    session.send("w3")
    settled(session)
    page = seen(closed(kind(session)))
    assert has in page.words
    assert has_not not in page.words


def test_before_anything_is_chosen_it_says_so(session: Session) -> None:
    page = seen(closed(Workbench(session)))
    assert "No model chosen" in page.words
    assert "No model is loaded" in page.words


@given(st.text(max_size=80), st.text(max_size=10))
def test_whatever_is_said_stays_text(text: str, speaker: str) -> None:
    html = talk_to_html((Said(speaker, text, text),))
    assert set(Page(html).tags) <= {"style", "div", "b", "pre", "small"}
    assert not re.search(r"[\x1b\x9b\u202e]", talk_to_text((Said(speaker, text),)))
    markdown = talk_to_markdown((Said("x", text),)).splitlines()
    fence = markdown[-1]
    assert set(fence) == {"`"}
    assert [line for line in markdown if line.startswith(fence)] == [f"{fence}text", fence]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("plain", ["div"]),
        ("so:\n```python\nprint(1)\n```\nthen", ["div", "pre", "div"]),
        ("```\nnever closed", ["pre"]),
        ("````\n```\n````", ["pre"]),
        ("", []),
    ],
)
def test_code_is_drawn_as_code(text: str, tags: list[str]) -> None:
    assert Page(talk_to_html((Said("m", text),))).tags == ["style", "div", "b", *tags]
