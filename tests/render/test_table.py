from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from IPython.lib.pretty import pretty

from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.tabular import Tabular
from tests.render.test_card import Page


@dataclass(frozen=True, slots=True)
class Shelf(Tabular):
    content: Table

    def table(self) -> Table:
        return self.content


JARS = Shelf(
    Table(
        "Jars",
        "on the shelf",
        (Column("Jar", numbers=False), Column("Weight", "g"), Column("Age", "days")),
        (
            TableRow(("honey", "500", "12"), "the oldest", "ok", frozenset({2})),
            TableRow(("jam", "75", "3")),
        ),
        ("Weights without the glass.",),
    )
)
texts = st.text(max_size=20)
tables = st.builds(
    Table,
    texts,
    texts,
    st.just((Column("Name", numbers=False), Column("Size", "MB"))),
    st.lists(
        st.builds(TableRow, st.tuples(texts, texts), texts, st.just("warn"), st.just(frozenset()))
    ).map(tuple),
    st.lists(texts).map(tuple),
)


def test_a_terminal_gets_columns_with_numbers_to_the_right() -> None:
    assert pretty(JARS).splitlines() == [
        "Jars",
        "on the shelf",
        "  Jar    Weight   Age",
        "              g  days",
        "  honey     500    12",
        "      the oldest",
        "  jam        75     3",
        "Weights without the glass.",
    ]


def test_markdown_gets_a_table_with_the_best_in_bold() -> None:
    assert JARS.to_markdown().splitlines()[4:8] == [
        "| Jar | Weight g | Age days |",
        "|---|---:|---:|",
        "| honey (the oldest) | 500 | **12** |",
        "| jam | 75 | 3 |",
    ]


def test_where_only_cards_are_shown_the_rows_are_in_words() -> None:
    honey, jam, note = JARS.card().rows
    assert (honey.term, honey.text) == ("honey", "weight 500 g, age 12 days; the oldest")
    assert jam.text == "weight 75 g, age 3 days"
    assert note.text == "Weights without the glass."


@given(tables)
def test_html_escapes_everything_and_needs_no_script(table: Table) -> None:
    html = Shelf(table).to_html()
    page = Page(html)
    assert set(page.tags) <= {
        *("section", "style", "div", "span", "table", "thead", "tbody"),
        *("tr", "th", "td", "br", "p"),
    }
    assert set(page.attributes) <= {"class", "aria-label", "scope"}
    for row in table.rows:
        assert row.remark in page.words


@given(tables)
def test_every_table_has_all_representations(table: Table) -> None:
    shelf = Shelf(table)
    assert shelf.to_markdown()
    assert all(char.isprintable() for line in shelf.to_text().splitlines() for char in line)
    assert len(shelf.card().rows) == len(table.rows) + len(table.notes)
