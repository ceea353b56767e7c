"""Names that no page could be sent, such as those of folders from another system."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ollm_widgets.render.card import Card, Row
from ollm_widgets.render.html import card_to_html
from ollm_widgets.render.markdown import card_to_markdown
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.table_drawing import table_to_html, table_to_markdown
from ollm_widgets.render.text import card_to_text

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


@given(ANY_TEXT)
def test_whatever_a_model_is_called_its_card_can_be_sent(name: str) -> None:
    card = Card(name, name, name, rows=(Row(name, name), Row("", name)))
    for drawn in (card_to_html(card), card_to_markdown(card), card_to_text(card)):
        drawn.encode("utf-8")


@given(ANY_TEXT)
def test_whatever_a_model_is_called_a_table_of_it_can_be_sent(name: str) -> None:
    table = Table(name, name, (Column(name, name),) * 2, (TableRow((name, name), name),), (name,))
    for drawn in (table_to_html(table), table_to_markdown(table)):
        drawn.encode("utf-8")
