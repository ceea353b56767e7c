"""All stores below one folder share a limit: what makes room is the one not used for longest."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from ollm_widgets.kv.persistent.archive import RECORDS_NAME, BlockArchive
from ollm_widgets.kv.persistent.index import INDEX_NAME, DamagedIndex, Index, open_index_to_look
from ollm_widgets.kv.processes import is_alive

ASIDE = ".aside"
_STORE = re.compile(rf"[0-9a-f]{{32}}({re.escape(ASIDE)})?")


class OtherStores:
    """The stores of a folder but one; see `archive.Neighbours`.

    Parameters
    ----------
    root
        Folder of all stores.
    own
        Name of the one that is left alone.
    """

    def __init__(self, root: Path, own: str) -> None:
        self._root = root
        self._own = own

    def bytes(self) -> int:
        """Bytes of their record files."""
        return sum(map(record_bytes, self._folders()))

    def free(self, wanted_bytes: int) -> None:
        """Remove what was set aside, then collect in stores that no process writes to."""
        stores: list[tuple[float, Path]] = []
        for folder in self._folders():
            if folder.name.endswith(ASIDE):
                wanted_bytes -= record_bytes(folder)
                remove_tree(folder)
                continue
            # One that cannot be read is set aside when its model is used.
            with suppress(DamagedIndex, sqlite3.Error, OSError, TypeError):
                index = open_index_to_look(folder / INDEX_NAME)
                try:
                    if not is_in_use(index):
                        stores.append((last_used(index), folder))
                finally:
                    index.close()
        for _, folder in sorted(stores):
            if wanted_bytes > 0:
                wanted_bytes -= _shrink(folder, wanted_bytes)

    def _folders(self) -> list[Path]:
        return [path for path in store_folders(self._root) if path.name != self._own]


def store_folders(root: Path) -> list[Path]:
    """Folders of stores, and what was set aside."""
    try:
        return [path for path in root.iterdir() if _STORE.fullmatch(path.name)]
    except OSError:
        return []


def record_bytes(folder: Path) -> int:
    """Bytes of a store's record files."""
    total = 0
    with suppress(OSError):
        for path in (folder / RECORDS_NAME).iterdir():
            with suppress(OSError):
                total += path.stat().st_size
    return total


def last_used(index: Index) -> float:
    """When anything of a store was used last, in seconds since 1970."""
    ((used,),) = index.rows("SELECT coalesce(max(last_used), 0) FROM blocks")
    return float(used)


def is_in_use(index: Index) -> bool:
    """Whether a process that runs writes to a store, or reads from it now."""
    rows = index.rows("SELECT process FROM pins UNION SELECT writer FROM files WHERE writer <> ''")
    return any(is_alive(process) for (process,) in rows)


def remove_tree(path: Path) -> None:
    """Delete a folder with what is in it, or a file; it may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _shrink(folder: Path, wanted_bytes: int) -> int:
    """Collect in a store; gives the bytes that became free."""
    before = record_bytes(folder)
    with suppress(DamagedIndex, sqlite3.Error, OSError):
        archive = BlockArchive(folder, "segments", max(0, before - wanted_bytes))
        try:
            archive.make_room([])
        finally:
            archive.close()
    return before - record_bytes(folder)
