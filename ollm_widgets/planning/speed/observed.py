"""What was predicted and what was measured on this machine, remembered for plans that are alike.

It is one SQLite file, so that several processes add to it and a kill leaves it whole. It keeps
SQLite's plain journal: a write-ahead log cannot be shared over a network folder, which is where
the cache folders of many clusters are, and leaves files beside it that the last one to close has
to fold in. Nothing waits for the disk: a power failure may cost the file, which is then begun
anew. Each call opens and closes it, in well under a millisecond, so that nothing is held across
threads and forks.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from ollm_widgets.planning.speed.alike import PlanShape
from ollm_widgets.settings import cache_dir, observes

Measure: TypeAlias = Literal["token", "first-token", "load", "memory"]

SHAPES_KEPT = 500
OBSERVATIONS_KEPT = 20
# Of plans that are alike only in where their layers come from, this many are looked at.
ALIKE_LOOKED_AT = 20

# The format is in the name: another version's file is another file.
_NAME = "observed-1.sqlite"
_WRITE_BUSY_S = 0.05
_READ_BUSY_S = 0.02
_TABLES = """
CREATE TABLE IF NOT EXISTS shapes (
    key TEXT PRIMARY KEY, regime TEXT NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS shapes_by_regime ON shapes (regime, used);
CREATE TABLE IF NOT EXISTS observations (
    id INTEGER PRIMARY KEY, shape TEXT NOT NULL, what TEXT NOT NULL,
    predicted REAL NOT NULL, measured REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS observations_by_shape ON observations (shape, what, id);
"""
# Statements are right and values are checked, so these say that the file is not.
_DAMAGED = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
}
# A damaged name cannot be decoded, which Python reports as a ValueError.
_TROUBLE = (sqlite3.Error, OSError, ValueError)


@dataclass(frozen=True, slots=True)
class Observation:
    """One figure of a load or an answer, as it was calculated before and as it came.

    Parameters
    ----------
    what
        ``token`` (seconds for each after the first), ``first-token`` (seconds until it),
        ``load`` (seconds) or ``memory`` (bytes).
    predicted
        Calculated, without any correction by earlier observations.
    measured
        In the same unit.
    """

    what: Measure
    predicted: float
    measured: float

    @property
    def usable(self) -> bool:
        """Whether a ratio can be had from it."""
        return all(math.isfinite(each) and each > 0 for each in (self.predicted, self.measured))


# Measured over predicted, the latest first.
Ratios: TypeAlias = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What is remembered for a plan.

    Parameters
    ----------
    own
        Ratios of plans with the same key, by what was measured.
    alike
        Those of each other shape of the same regime.
    """

    own: dict[Measure, Ratios] = field(default_factory=dict)
    alike: tuple[dict[Measure, Ratios], ...] = ()


class ObservationStore:
    """Observations by plan shape; the shapes that were observed least lately are dropped.

    Safe to use from several threads and processes. No method raises.

    Parameters
    ----------
    path
        The file; it is made when there is something to keep.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, shape: PlanShape, observations: Sequence[Observation]) -> str:
        """Remember what was observed.

        Returns
        -------
        str
            What a person should know of it, in a sentence; empty where all went well.
        """
        usable = [each for each in observations if each.usable]
        if not usable:
            return ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._add(shape, usable)
            except (sqlite3.Error, ValueError) as error:
                if not _is_damage(error):
                    raise
                self._set_aside()
                self._add(shape, usable)
                return f"What earlier answers took was damaged in {self.path}: begun anew."
        except _TROUBLE as error:
            return f"What is measured is not remembered: {self.path} cannot be written ({error})."
        return ""

    def read(self, shape: PlanShape) -> Observed:
        """Return what is remembered for a plan; nothing where the file cannot be read now."""
        try:
            if not self.path.exists():
                return Observed()
            own = self._ratios("SELECT ?", shape.key)
            alike = self._ratios(
                "SELECT key FROM shapes WHERE regime = ? "
                f"ORDER BY used DESC LIMIT {ALIKE_LOOKED_AT}",
                shape.regime,
            )
        except _TROUBLE:
            return Observed()
        alike.pop(shape.key, None)
        return Observed(own.get(shape.key, {}), tuple(alike.values()))

    def _ratios(self, shapes: str, value: str) -> dict[str, dict[Measure, Ratios]]:
        """Read the ratios of the shapes that a query names, by their key."""
        with self._opened("rw", _READ_BUSY_S) as connection:
            rows = connection.execute(
                "SELECT shape, what, predicted, measured FROM observations "
                f"WHERE shape IN ({shapes}) ORDER BY id DESC",
                (value,),
            ).fetchall()
        found: dict[str, dict[Measure, Ratios]] = {}
        for key, what, predicted, measured in rows:
            observation = _as_observation(what, predicted, measured)
            if observation is not None:
                ratios = found.setdefault(key, {})
                ratio = observation.measured / observation.predicted
                ratios[observation.what] = (*ratios.get(observation.what, ()), ratio)
        return found

    def _add(self, shape: PlanShape, observations: Sequence[Observation]) -> None:
        with self._opened("rwc", _WRITE_BUSY_S) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO shapes VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET used = excluded.used",
                (shape.key, shape.regime, time.time()),
            )
            connection.executemany(
                "INSERT INTO observations (shape, what, predicted, measured) VALUES (?, ?, ?, ?)",
                [(shape.key, each.what, each.predicted, each.measured) for each in observations],
            )
            for what in {each.what for each in observations}:
                connection.execute(
                    "DELETE FROM observations WHERE shape = :shape AND what = :what AND id <= "
                    "(SELECT id FROM observations WHERE shape = :shape AND what = :what "
                    f"ORDER BY id DESC LIMIT 1 OFFSET {OBSERVATIONS_KEPT})",
                    {"shape": shape.key, "what": what},
                )
            self._drop_oldest(connection)
            # Closing the connection of a failed transaction rolls it back.
            connection.execute("COMMIT")

    def _drop_oldest(self, connection: sqlite3.Connection) -> None:
        (count,) = connection.execute("SELECT count(*) FROM shapes").fetchone()
        if count > SHAPES_KEPT:
            connection.execute(
                "DELETE FROM shapes WHERE key IN (SELECT key FROM shapes ORDER BY used LIMIT ?)",
                (count - SHAPES_KEPT,),
            )
            connection.execute(
                "DELETE FROM observations WHERE shape NOT IN (SELECT key FROM shapes)"
            )

    @contextmanager
    def _opened(self, mode: Literal["rw", "rwc"], busy_s: float) -> Iterator[sqlite3.Connection]:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        with closing(
            sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None)
        ) as connection:
            yield connection

    def _set_aside(self) -> None:
        """Keep the damaged file under another name; a journal of it would damage a new one."""
        self.path.replace(self.path.with_suffix(".damaged"))
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)


def default_store() -> ObservationStore | None:
    """Return the store in our cache folder; None where nothing shall be remembered."""
    return ObservationStore(cache_dir() / _NAME) if observes() else None


def _as_observation(what: object, predicted: object, measured: object) -> Observation | None:
    """Take a row for what it should be; None for one that somebody else has written."""
    if not isinstance(predicted, float) or not isinstance(measured, float):
        return None
    found = next((each for each in get_args(Measure) if each == what), None)
    observation = Observation(found, predicted, measured) if found else None
    return observation if observation is not None and observation.usable else None


def _is_damage(error: Exception) -> bool:
    if isinstance(error, ValueError):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED
