from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from IPython.lib.pretty import pretty

from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.renderable import Renderable


@dataclass(frozen=True, slots=True)
class Pebble(Renderable):
    name: str

    def card(self) -> Card:
        return Card(
            self.name,
            subtitle="found on the beach",
            badge="smooth",
            tone="ok",
            rows=(Row("weight", "12 g"), Row("", "a remark over the whole width", "warn")),
        )


class Page(HTMLParser):
    """Collects tags, attributes and the text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.words += data


def test_a_renderable_dataclass_stays_frozen_and_without_a_dict() -> None:
    pebble = Pebble("quartz")
    assert not hasattr(pebble, "__dict__")
    with pytest.raises(FrozenInstanceError):
        pebble.name = "flint"  # type: ignore[misc]


def test_a_class_that_says_no_card_cannot_be_made() -> None:
    class Mute(Renderable):
        pass

    with pytest.raises(TypeError, match="card"):
        Mute()  # type: ignore[abstract]


def test_a_notebook_gets_html_and_text_and_no_markdown() -> None:
    data, _ = DisplayFormatter().format(Pebble("quartz"))
    assert data["text/html"] == Pebble("quartz").to_html()
    assert data["text/plain"] == Pebble("quartz").to_text()
    assert "text/markdown" not in data


def test_the_card_is_the_text_in_a_terminal() -> None:
    assert pretty(Pebble("quartz")).splitlines() == [
        "quartz [smooth]",
        "found on the beach",
        "  weight  12 g",
        "  a remark over the whole width",
    ]


def test_html_carries_its_own_style_and_no_script() -> None:
    page = Page(Pebble("quartz").to_html())
    assert page.tags[:2] == ["section", "style"]
    assert "script" not in page.tags


def test_long_text_is_wrapped_under_its_own_column() -> None:
    card = Card("title", rows=(Row("why", "word " * 60),))

    @dataclass(frozen=True, slots=True)
    class Long(Renderable):
        def card(self) -> Card:
            return card

    lines = Long().to_text().splitlines()
    assert len(lines) > 3
    assert all(len(line) <= 96 for line in lines)
    assert all(line.startswith("       word") for line in lines[2:])


def test_markdown_is_a_table_whose_cells_cannot_be_left() -> None:
    lines = Pebble("a|b\n|c").to_markdown().splitlines()
    assert lines[0] == r"**a\|b \|c** (smooth)"
    assert lines[-2:] == ["| weight | 12 g |", "|  | a remark over the whole width |"]


def test_a_name_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in Pebble("\x1b[2J\x1b[31mred").to_text()


@given(st.text(max_size=60))
def test_whatever_a_model_is_called_the_html_keeps_its_tags(name: str) -> None:
    plain, named = Page(Pebble("quartz").to_html()), Page(Pebble(name).to_html())
    assert named.tags == plain.tags
    assert named.attributes == plain.attributes


@given(st.text(max_size=60))
def test_whatever_a_model_is_called_markdown_holds_no_html(name: str) -> None:
    markdown = Pebble(name).to_markdown()
    assert "<" not in markdown
    assert ">" not in markdown


def test_lines_of_an_answer_stay_lines() -> None:
    @dataclass(frozen=True, slots=True)
    class Poem(Renderable):
        def card(self) -> Card:
            return Card("poem", rows=(Row("said", "one\n\n  two \x1b[31m\nthree"), Row("by", "me")))

    assert Poem().to_text().splitlines() == [
        "poem",
        "  said  one",
        "",
        "          two [31m",
        "        three",
        "  by    me",
    ]
    assert '<dd class="oc-neutral oc-lines">one\n\n  two' in Poem().to_html()
