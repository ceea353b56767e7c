"""A table as HTML, as Markdown and as aligned lines: numbers to the right, remarks in words."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

from ollm_widgets.render.card import Card
from ollm_widgets.render.html import section
from ollm_widgets.render.markdown import escaped
from ollm_widgets.render.text import WIDTH, printable

if TYPE_CHECKING:
    from ollm_widgets.render.table import Column, Table, TableRow

# The class is named twice to win over the zebra stripes and right-aligned cells of JupyterLab.
_STYLE = (
    "section.ollm-card.ollm-card{max-width:100%}"
    ".ollm-card .oc-scroll{overflow-x:auto;margin-top:8px}"
    "section.ollm-card table{border-collapse:collapse;margin:0;font-size:inherit;color:inherit}"
    "section.ollm-card.ollm-card tr:nth-child(n){background:none}"
    "section.ollm-card.ollm-card :is(th,td){padding:3px 12px 3px 0;text-align:left;"
    "vertical-align:top;font-weight:400;white-space:nowrap;border:0;max-width:none}"
    "section.ollm-card.ollm-card thead :is(th,td){color:var(--oc-d);vertical-align:bottom;"
    "border-bottom:1px solid var(--oc-l)}"
    "section.ollm-card.ollm-card :is(th,td).oc-number{text-align:right}"
    "section.ollm-card.ollm-card td.oc-best{font-weight:600}"
    "section.ollm-card .oc-remark{display:block;white-space:normal;max-width:44em;font-size:12px}"
    "section.ollm-card .oc-remark.oc-neutral{color:var(--oc-d)}"
    ".ollm-card p{margin:8px 0 0;color:var(--oc-d)}"
)


def table_to_html(table: Table) -> str:
    """Return the table as one ``<section>`` that carries its own style."""
    head = "".join(
        f'<th scope="col"{_number(column)}>{escape(column.title)}'
        f"{f'<br>{escape(column.unit)}' if column.unit else ''}</th>"
        for column in table.columns
    )
    rows = "".join(_html_row(table, row) for row in table.rows)
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    drawn = f'<div class="oc-scroll">{body}</div>' if table.rows else ""
    return section(Card(table.title, table.subtitle), drawn + notes, _STYLE)


def _html_row(table: Table, row: TableRow) -> str:
    name, *cells = row.cells
    remark = (
        f'<span class="oc-remark oc-{escape(row.tone)}">{escape(row.remark)}</span>'
        if row.remark
        else ""
    )
    texts = []
    for index, (column, cell) in enumerate(zip(table.columns[1:], cells, strict=True), start=1):
        best = " oc-best" if index in row.best else ""
        texts.append(f"<td{_number(column, best)}>{escape(cell)}</td>")
    return f'<tr><th scope="row">{escape(name)}{remark}</th>{"".join(texts)}</tr>'


def _number(column: Column, more: str = "") -> str:
    return f' class="oc-number{more}"' if column.numbers else ""


def table_to_markdown(table: Table) -> str:
    """Return the table as Markdown; remarks follow the row's name."""
    parts = [f"**{escaped(table.title)}**"]
    if table.subtitle:
        parts.append(escaped(table.subtitle))
    if table.rows:
        titles = (escaped(f"{column.title} {column.unit}".strip()) for column in table.columns)
        rules = ("---:" if column.numbers else "---" for column in table.columns)
        lines = [f"| {' | '.join(titles)} |", f"|{'|'.join(rules)}|"]
        for row in table.rows:
            cells = [
                f"**{escaped(cell)}**" if index in row.best else escaped(cell)
                for index, cell in enumerate(row.cells)
            ]
            if row.remark:
                cells[0] += f" ({escaped(row.remark)})"
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join((*parts, *(escaped(note) for note in table.notes)))


def table_to_text(table: Table) -> str:
    """Return the table as lines; a remark is on a line of its own below its row."""
    lines = [printable(table.title)]
    if table.subtitle:
        lines += textwrap.wrap(printable(table.subtitle), WIDTH)
    if table.rows:
        heads = [[column.title for column in table.columns]]
        if any(column.unit for column in table.columns):
            heads.append([column.unit for column in table.columns])
        body = [[printable(cell) for cell in row.cells] for row in table.rows]
        widths = [max(map(len, column)) for column in zip(*heads, *body, strict=True)]

        def aligned(cells: list[str]) -> str:
            placed = (
                f"{cell:>{width}}" if column.numbers else f"{cell:<{width}}"
                for cell, width, column in zip(cells, widths, table.columns, strict=True)
            )
            return "  " + "  ".join(placed)

        lines += [aligned(head) for head in heads]
        for row, cells in zip(table.rows, body, strict=True):
            lines.append(aligned(cells))
            lines += _indented(row.remark)
    for note in table.notes:
        lines += textwrap.wrap(printable(note), WIDTH)
    return "\n".join(line.rstrip() for line in lines)


def _indented(remark: str) -> list[str]:
    return textwrap.wrap(
        printable(remark), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
    )
