"""A plain table with aligned columns, and goals with their verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on one of the figures of a row, with how to write it."""

    figure: str
    bound: float
    unit: str
    at_least: bool = False

    def verdict(self, value: float | None) -> str:
        """Say the goal and whether `value` keeps it."""
        sign = ">=" if self.at_least else "<="
        goal = f"{sign} {self.bound:g} {self.unit}"
        if value is None:
            return f"{goal}: ?"
        met = value >= self.bound if self.at_least else value <= self.bound
        return f"{goal}: {'met' if met else 'MISSED'}"


class Table:
    """Rows of text; the first and the last column are flush left, figures flush right."""

    def __init__(self, *headings: str) -> None:
        self._rows: list[Sequence[str]] = [headings]

    def add(self, *cells: str) -> None:
        """Append a row, as many cells as headings."""
        if len(cells) != len(self._rows[0]):
            raise ValueError(f"{len(cells)} cells for {len(self._rows[0])} columns")
        self._rows.append(cells)

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self._rows, strict=True)]
        last = len(widths) - 1
        lines = []
        for row in self._rows:
            cells = [
                cell.ljust(width) if column in (0, last) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """Write a figure, or nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def times(value: float | None) -> str:
    """Write a ratio: ``1.02 x``."""
    return "" if value is None else f"{value:.3g} x" if value >= 100 else f"{value:.2f} x"


def gigabytes(value: float | None) -> str:
    """Write bytes in units of 10^9."""
    return "" if value is None else f"{value / 1e9:.2f}"


def ratio(value: float | None, base: float | None) -> float | None:
    """Divide, where both are known."""
    return None if value is None or not base else value / base
