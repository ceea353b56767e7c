"""Where stores are: a folder for each fingerprint, and what is set aside next to it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ollm_widgets.kv.persistent.archive import BlockArchive, index_identity
from ollm_widgets.kv.persistent.fingerprint import Fingerprint
from ollm_widgets.kv.persistent.index import DamagedIndex
from ollm_widgets.kv.persistent.neighbours import ASIDE, OtherStores, remove_tree

if TYPE_CHECKING:
    from ollm_widgets.planning.kv_presets import KVLayout

MODEL_NAME = "model.json"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where the store of a fingerprint is, and how it is to be written.

    Parameters
    ----------
    root
        Folder of all stores.
    fingerprint
        Whose it is.
    layout
        Of record files.
    limit_bytes
        Most bytes of them, in all stores of `root`; None = no limit.
    """

    root: Path
    fingerprint: Fingerprint
    layout: KVLayout
    limit_bytes: int | None

    @property
    def folder(self) -> Path:
        """Of the store itself."""
        return self.root / self.fingerprint.digest

    def open(self) -> tuple[BlockArchive, str]:
        """Open the store; what is there and cannot be used is set aside.

        Returns
        -------
        archive, note
            What was set aside and why, for people; usually empty.

        Raises
        ------
        OSError, sqlite3.Error
            When the folder cannot be used now.
        """
        with self._deciding():
            return self._opened()

    def replace(self, damaged: BlockArchive, reason: str) -> tuple[BlockArchive, str]:
        """Set the store aside and begin a new one; another process may have done so already.

        Parameters
        ----------
        damaged
            What was open until now.
        reason
            What is wrong with it.

        Returns
        -------
        archive, note
            See `open`.
        """
        with self._deciding():
            note = ""
            if not self.is_gone(damaged):
                note = set_aside(self.folder, reason)
            archive, other = self._opened()
            return archive, note or other

    def is_gone(self, archive: BlockArchive) -> bool:
        """Whether somebody removed or replaced what is open."""
        return index_identity(self.folder) != archive.identity

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """One process at a time decides whether what is there can be used."""
        from filelock import FileLock

        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f"{self.fingerprint.digest}{_LOCK}"):
            yield

    def _opened(self) -> tuple[BlockArchive, str]:
        note = ""
        try:
            archive = self._archive()
        except DamagedIndex as error:
            note = set_aside(self.folder, str(error))
        except (FileExistsError, NotADirectoryError):
            note = set_aside(self.folder, "something else is in its place")
        if note:
            archive = self._archive()
        _describe(self.folder, self.fingerprint)
        return archive, note

    def _archive(self) -> BlockArchive:
        others = OtherStores(self.root, self.folder.name)
        return BlockArchive(self.folder, self.layout, self.limit_bytes, others)


def set_aside(folder: Path, reason: str) -> str:
    """Rename a store, in place of one that was set aside before. Gives the words for people."""
    aside = folder.with_name(folder.name + ASIDE)
    remove_tree(aside)
    folder.rename(aside)
    return (
        f"The KV store {folder} cannot be used ({reason}), so it was renamed to {aside.name} and "
        "an empty one was begun."
    )


def _describe(folder: Path, fingerprint: Fingerprint) -> None:
    """Write down whose store it is, for people and for the list of stores."""
    path = folder / MODEL_NAME
    text = json.dumps(asdict(fingerprint), indent=1).encode()
    with suppress(OSError):
        if path.is_file() and path.read_bytes() == text:
            return
    # Not being able to is no reason to go without a store.
    with (
        suppress(OSError),
        tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial,
    ):
        partial.write(text)
        partial.close()
        Path(partial.name).replace(path)
