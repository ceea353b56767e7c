"""What a table says."""

from __future__ import annotations

from dataclasses import dataclass

from ollm_widgets.render.card import Card, Row, Tone


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, the unit of its numbers, and whether they are numbers."""

    title: str
    unit: str = ""
    numbers: bool = True


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row.

    Parameters
    ----------
    cells
        A text a column, without the unit.
    remark
        What the numbers do not say: what this row is best at, or why it has none.
    tone
        What the remark means.
    best
        Columns whose value is the best of the table; the remark says so in words.
    """

    cells: tuple[str, ...]
    remark: str = ""
    tone: Tone = "neutral"
    best: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Table:
    """The content of a table, independent of how it is drawn."""

    title: str
    subtitle: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[TableRow, ...] = ()
    notes: tuple[str, ...] = ()

    def as_card(self) -> Card:
        """Return the same in words, one row of a card a row."""
        rows = [Row(row.cells[0], self._in_words(row), row.tone) for row in self.rows]
        return Card(
            self.title, self.subtitle, rows=(*rows, *(Row("", note) for note in self.notes))
        )

    def _in_words(self, row: TableRow) -> str:
        facts = [
            f"{column.title.lower()} {cell} {column.unit}".rstrip()
            for column, cell in zip(self.columns[1:], row.cells[1:], strict=True)
            if cell
        ]
        return "; ".join(filter(None, (", ".join(facts), row.remark)))
