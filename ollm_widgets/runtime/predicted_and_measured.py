"""A plan's figures beside what came true, as records and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ollm_widgets.render.card import Row
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.tabular import Tabular
from ollm_widgets.render.units import format_memory, format_seconds

Unit: TypeAlias = Literal["s", "B"]

SECONDS_PER_TOKEN = "Seconds per token"
FIRST_TOKEN = "Seconds until the first token"
LOAD = "Seconds of loading"

# Below this, figures need their digits to be told apart.
_LONG_S = 100.0


@dataclass(frozen=True, slots=True)
class PredictedAndMeasured:
    """One figure of a plan, and what it came to.

    Parameters
    ----------
    what
        In words: ``"Seconds per token"``.
    predicted, measured
        In `unit`, both above zero.
    unit
        ``s`` for seconds, ``B`` for bytes.
    remark
        What they hold for: ``"312 prompt tokens"``.
    part
        Whether it is a part of the figure before it.
    """

    what: str
    predicted: float
    measured: float
    unit: Unit
    remark: str = ""
    part: bool = False

    @property
    def ratio(self) -> float:
        """Measured over predicted: above 1 it took more."""
        return self.measured / self.predicted

    def row(self) -> Row:
        """Say it in a row of a card: ``"Predicted 22 tokens/s, measured 21.4"``."""
        if self.what == SECONDS_PER_TOKEN:
            predicted, measured = 1 / self.predicted, 1 / self.measured
            return Row("Speed", f"Predicted {predicted:.3g} tokens/s, measured {measured:.3g}")
        term = {FIRST_TOKEN: "First token", LOAD: "Load"}.get(self.what, self.what)
        predicted_text, measured_text = self._texts()
        said = f"Predicted {predicted_text}, measured {measured_text}"
        return Row(term, f"{said} for {self.remark}" if self.remark else said)

    def cells(self) -> tuple[str, ...]:
        """Say it in the cells of a table: what, predicted, measured, ratio."""
        return (self.what, *self._texts(), f"{self.ratio:.2f} x")

    def _texts(self) -> tuple[str, str]:
        if self.unit == "B":
            return format_memory(self.predicted), format_memory(self.measured)
        if max(self.predicted, self.measured) >= _LONG_S:
            return format_seconds(self.predicted), format_seconds(self.measured)
        return f"{self.predicted:.3g} s", f"{self.measured:.3g} s"


@dataclass(frozen=True, slots=True)
class TruthReport(Tabular):
    """What was predicted of a runtime and what was measured: of its load and its last answer.

    Parameters
    ----------
    model
        What a person calls it.
    rows
        One a figure; only figures that were predicted and measured.
    notes
        What a person should know of them, in sentences.
    """

    model: str
    rows: tuple[PredictedAndMeasured, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[PredictedAndMeasured, ...]:
        """The rows that a card has room for: no parts of others."""
        return tuple(row for row in self.rows if not row.part)

    def find(self, what: str) -> PredictedAndMeasured | None:
        """Return the row of that name, where there is one."""
        return next((row for row in self.rows if row.what == what), None)

    def table(self) -> Table:
        """Put the figures side by side."""
        return Table(
            title=f"{self.model}: predicted and measured",
            columns=(
                Column("Figure", numbers=False),
                Column("Predicted"),
                Column("Measured"),
                Column("Ratio"),
            ),
            rows=tuple(TableRow(row.cells(), row.remark) for row in self.rows),
            notes=self.notes if self.rows else (*self.notes, "Nothing was measured yet."),
        )

    def as_dicts(self) -> list[dict[str, str | float]]:
        """Return the rows as plain values, for a data frame."""
        return [
            {
                "what": row.what,
                "predicted": row.predicted,
                "measured": row.measured,
                "unit": row.unit,
                "ratio": row.ratio,
                "remark": row.remark,
            }
            for row in self.rows
        ]
