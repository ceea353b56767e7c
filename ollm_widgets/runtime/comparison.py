"""What a person gets from `LoadedRuntime.compare_kv`: figures of each KV strategy, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ollm_widgets.kv.stats import KVStats
from ollm_widgets.planning.ids import KVStrategyId
from ollm_widgets.render.table import Column, Table, TableRow
from ollm_widgets.render.tabular import Tabular
from ollm_widgets.render.units import format_memory


@dataclass(frozen=True, slots=True)
class KVComparisonRow:
    """Figures of one strategy.

    Parameters
    ----------
    strategy
        The strategy.
    memory
        What its cache held after the prompt, tier by tier.
    time_to_first_token_s, seconds_per_token
        Until the first token, and for each token after the second.
    kl_mean_nats, kl_max_nats
        Kullback-Leibler divergence of its next-token distribution from that of a cache that keeps
        everything in full precision, both having read the same tokens.
    agreement
        Share of the new tokens that it would have chosen too.
    error
        Why there are no figures; empty where there are.
    """

    strategy: KVStrategyId
    memory: KVStats = field(default_factory=KVStats)
    time_to_first_token_s: float = 0.0
    seconds_per_token: float = 0.0
    kl_mean_nats: float = 0.0
    kl_max_nats: float = 0.0
    agreement: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Measure:
    """A column of figures: what it shows, and in which words its smallest one is the best."""

    column: Column
    value: Callable[[KVComparisonRow], float]
    text: Callable[[float], str]
    best: str = ""


@dataclass(frozen=True, slots=True)
class KVComparison(Tabular):
    """KV strategies after the same prompt and the same new tokens.

    Parameters
    ----------
    rows
        One a strategy, in the order in which they were asked for.
    model, machine
        What ran, and where.
    device_tier
        Name of the tier that computes: ``"GPU memory"``, or ``"RAM"`` where the CPU does.
    prompt_tokens, new_tokens
        Tokens read and written.
    full_bytes
        Keys and values of all these tokens in full precision.
    budget_bytes
        What each strategy with a choice might keep on the computing device; None = no bound.
    """

    rows: tuple[KVComparisonRow, ...]
    model: str
    machine: str
    device_tier: str
    prompt_tokens: int
    new_tokens: int
    full_bytes: int
    budget_bytes: int | None

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return a flat dictionary a row, as ``pandas.DataFrame`` takes them."""
        return [
            {
                "strategy": row.strategy,
                "device_bytes": row.memory.accelerator_bytes,
                "host_bytes": row.memory.host_bytes,
                "disk_bytes": row.memory.disk_bytes,
                "time_to_first_token_s": row.time_to_first_token_s,
                "seconds_per_token": row.seconds_per_token,
                "kl_mean_nats": row.kl_mean_nats,
                "kl_max_nats": row.kl_max_nats,
                "agreement": row.agreement,
                "error": row.error,
            }
            if not row.error
            else {"strategy": row.strategy, "error": row.error}
            for row in self.rows
        ]

    def table(self) -> Table:
        """One row a strategy, the best of each column said in words."""
        measured = [row for row in self.rows if not row.error]
        measures = self._measures(measured)
        best = [_best(measure, measured) for measure in measures]
        return Table(
            title=f"KV cache strategies: {self.model}",
            subtitle=self._conditions(),
            columns=(
                Column("Strategy", numbers=False),
                *(measure.column for measure in measures),
            ),
            rows=tuple(self._row(row, measures, best) for row in self.rows),
            notes=(
                "KL is the divergence of the next token's distribution from that of a resident "
                "cache; 0 is exact. Same is the share of the new tokens that are the same.",
                self.machine,
            ),
        )

    def _conditions(self) -> str:
        read = f"{self.prompt_tokens:,} tokens read, {self.new_tokens:,} written"
        full = f"{format_memory(self.full_bytes)} of keys and values in full precision"
        if self.budget_bytes is None:
            return f"{read}; {full}"
        hot = f"{format_memory(self.budget_bytes)} may stay hot in {self.device_tier}"
        return f"{read}; {full}, of which {hot}"

    def _row(
        self, row: KVComparisonRow, measures: list[_Measure], best: list[float | None]
    ) -> TableRow:
        if row.error:
            return TableRow((row.strategy, *("" for _ in measures)), row.error, "warn")
        values = [measure.value(row) for measure in measures]
        leads = [value == least for value, least in zip(values, best, strict=True)]
        return TableRow(
            (
                row.strategy,
                *(each.text(value) for each, value in zip(measures, values, strict=True)),
            ),
            ", ".join(each.best for each, leading in zip(measures, leads, strict=True) if leading),
            "ok",
            frozenset(index for index, leading in enumerate(leads, start=1) if leading),
        )

    def _measures(self, rows: list[KVComparisonRow]) -> list[_Measure]:
        tiers: list[tuple[str, Callable[[KVComparisonRow], float], str]] = [
            ("Hot", lambda row: row.memory.accelerator_bytes, "least hot memory"),
            ("Cold in RAM", lambda row: row.memory.host_bytes, ""),
            ("On disk", lambda row: row.memory.disk_bytes, ""),
        ]
        # One unit for all tiers, so that they can be compared at a glance.
        unit, factor = _scale(_BYTES, (value(row) for row in rows for _, value, _ in tiers))
        return [
            *(
                _Measure(Column(name, unit), value, _scaled(factor), best)
                for index, (name, value, best) in enumerate(tiers)
                if index == 0 or any(value(row) for row in rows)
            ),
            _timed("First token", lambda row: row.time_to_first_token_s, "soonest answer", rows),
            _timed("A token", lambda row: row.seconds_per_token, "fastest tokens", rows),
            _Measure(Column("KL mean", "nats"), lambda row: row.kl_mean_nats, _nats),
            _Measure(Column("KL max", "nats"), lambda row: row.kl_max_nats, _nats),
            _Measure(Column("Same", "%"), lambda row: row.agreement, lambda it: f"{100 * it:.0f}"),
        ]


@dataclass(frozen=True, slots=True)
class ComparisonProgress:
    """How far a comparison is.

    Parameters
    ----------
    strategy
        The one that runs; None while the reference does.
    done, total
        Strategies that are done, the reference included, and all of them.
    tokens, new_tokens
        New tokens of this one that are there, and all of them.
    """

    strategy: KVStrategyId | None
    done: int
    total: int
    tokens: int
    new_tokens: int

    def __str__(self) -> str:
        what = self.strategy or "reference"
        return f"{self.done + 1} of {self.total}, {what}: {self.tokens} of {self.new_tokens} tokens"


def _best(measure: _Measure, rows: list[KVComparisonRow]) -> float | None:
    """Return the smallest value of a column; None where nothing is better than something else."""
    values = {measure.value(row) for row in rows}
    return min(values) if measure.best and len(values) > 1 else None


_Units = tuple[tuple[str, float], ...]
# The largest unit first, with its size in the base unit.
_BYTES: _Units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_SECONDS: _Units = (("s", 1.0), ("ms", 1e-3))


def _scale(units: _Units, values: Iterable[float]) -> tuple[str, float]:
    """Choose the unit in which the largest value has a digit before the point."""
    most = max(values, default=0.0)
    return next((each for each in units if most >= each[1]), units[-1])


def _scaled(factor: float) -> Callable[[float], str]:
    return lambda value: f"{value / factor:.1f}" if value else "0"


def _timed(
    title: str, value: Callable[[KVComparisonRow], float], best: str, rows: list[KVComparisonRow]
) -> _Measure:
    unit, factor = _scale(_SECONDS, map(value, rows))
    return _Measure(Column(title, unit), value, lambda it: f"{it / factor:.2f}", best)


def _nats(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.1e}" if value < 1e-4 else f"{value:.4f}"
