"""The SQLite file of a store: which blocks there are, where their records lie, who uses them.

Numbers of blocks and pins are never used twice, as processes remember them.

A block is visible from the commit of the transaction that enters it, and not before. Several
processes read and write at once; SQLite's write-ahead log keeps them apart and survives a kill.

==========  ====================================================================================
table       a row
==========  ====================================================================================
``kinds``   how caches of one shape are cut into records (`kinds.CacheKind`, as JSON)
``blocks``  consecutive tokens: their hash, the block they follow, their ids, when they were used
``parts``   a record of a block: its name, the first token of the block in it, its place
``files``   a file of records and the writer that may append to it and free in it; empty: nobody
``dead``    a record without a block, in a file of a writer that has not freed it yet
``pins``    a block that a process is using, and so all blocks before it
==========  ====================================================================================
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
INDEX_NAME = "index.sqlite"

_APPLICATION_ID = 0x6F4B5631  # "oKV1"
_BUSY_S = 15.0
_AGAIN_S = 0.005
# Nothing here writes what a constraint forbids, so what is there already must be wrong.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT}
_TABLES = """
CREATE TABLE kinds (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE blocks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE,
    parent INTEGER REFERENCES blocks (id), kind INTEGER NOT NULL,
    ids BLOB NOT NULL, last_used REAL NOT NULL
);
CREATE INDEX blocks_by_parent ON blocks (parent, kind);
CREATE TABLE parts (
    block INTEGER NOT NULL, name TEXT NOT NULL, first INTEGER NOT NULL, file TEXT NOT NULL,
    offset INTEGER NOT NULL, size INTEGER NOT NULL, checksum BLOB NOT NULL,
    PRIMARY KEY (block, name)
) WITHOUT ROWID;
CREATE INDEX parts_by_place ON parts (file, offset);
CREATE TABLE files (name TEXT PRIMARY KEY, writer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (
    file TEXT NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE pins (
    id INTEGER PRIMARY KEY AUTOINCREMENT, block INTEGER NOT NULL, process TEXT NOT NULL
);
CREATE INDEX pins_by_block ON pins (block);
"""
# What is asked for later must be there.
_LOOKS = (
    "SELECT id, text FROM kinds",
    "SELECT id, hash, parent, kind, ids, last_used FROM blocks",
    "SELECT block, name, first, file, offset, size, checksum FROM parts",
    "SELECT name, writer FROM files",
    "SELECT file, offset, size, checksum FROM dead",
    "SELECT id, block, process FROM pins",
)


class DamagedIndex(Exception):  # noqa: N818  (never leaves this package: the store is set aside)
    """The file is no index of this version, or is damaged; the message says which."""


class Index:
    """A connection to an index; threads take turns.

    Parameters
    ----------
    path
        The file.
    connection
        From `open_index`, which is how to get an index.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make everything done inside visible at once, or none of it.

        Raises
        ------
        sqlite3.Error
            When another process holds the index for too long, or the disk refuses.
        """
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            # A commit that fails leaves the transaction open.
            try:
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.rollback()
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See one state of the index for as long as the block runs."""
        with self._lock:
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a statement; gives its rows."""
        with self._lock, _readable():
            return self._connection.execute(statement, values).fetchall()

    def insert(self, statement: str, values: Sequence[object]) -> int:
        """Run a statement that inserts one row; gives the row's number."""
        with self._lock, _readable():
            number = self._connection.execute(statement, values).lastrowid
            return number or 0

    def each(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Run a statement once for each row."""
        with self._lock, _readable():
            self._connection.executemany(statement, rows)

    def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        with self._lock:
            self._connection.close()


def open_index(path: Path) -> Index:
    """Open an index, and make it if the file is not there or empty.

    Two processes may do so at once, but nobody may set the file aside meanwhile.

    Raises
    ------
    DamagedIndex
        When something else is in its place: another version's, no SQLite, damage.
    sqlite3.Error
        When the file cannot be used now: busy, no rights, no room.
    """
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    return _checked(path, connection, _prepare)


def open_index_to_look(path: Path) -> Index:
    """Open an index that is there, to read only.

    Raises
    ------
    DamagedIndex, sqlite3.Error
        See `open_index`.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    return _checked(path, connection, _require_version)


def _checked(
    path: Path, connection: sqlite3.Connection, check: Callable[[sqlite3.Connection], None]
) -> Index:
    # What is no text is no name either, which is seen where names are used.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    try:
        with _readable():
            check(connection)
            for look in _LOOKS:
                connection.execute(f"{look} LIMIT 1").fetchall()
    except sqlite3.Error as error:
        connection.close()
        # The statements are right, so what makes them fail is in the file.
        if is_damage(error) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            raise DamagedIndex(f"it cannot be read: {error}") from error
        raise
    except BaseException:
        connection.close()
        raise
    return Index(path, connection)


@contextmanager
def _readable() -> Iterator[None]:
    """Take a message that Python cannot read, as one with damaged names is, for damage."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DamagedIndex(f"it cannot be read: {error}") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is the reason, and not the moment."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk has no room."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_FULL


def _prepare(connection: sqlite3.Connection) -> None:
    _switch_to_log(connection)
    # A lost power supply may cost the last transactions, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    if not _pragma(connection, "application_id"):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not _pragma(connection, "application_id"):
                _create(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
    _require_version(connection)
    found = connection.execute("PRAGMA quick_check (1)").fetchone()
    if found != ("ok",):
        raise DamagedIndex(f"it is damaged: {found[0] if found else 'no answer'}")


def _switch_to_log(connection: sqlite3.Connection) -> None:
    """Use the write-ahead log; SQLite does not wait by itself while another does the same."""
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > until:
                raise
        time.sleep(_AGAIN_S)


def _create(connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
        raise DamagedIndex("another program's tables are in it")
    for statement in _TABLES.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _require_version(connection: sqlite3.Connection) -> None:
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        raise DamagedIndex("another program's tables are in it")
    schema = _pragma(connection, "user_version")
    if schema != SCHEMA_VERSION:
        raise DamagedIndex(f"it has format {schema}, and this version reads {SCHEMA_VERSION}")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
