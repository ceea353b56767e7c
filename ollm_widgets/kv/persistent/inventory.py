"""The stores on this machine, for people: what they hold, how much they take, and their removal."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ollm_widgets.errors import DeletionError, KVStrategyError
from ollm_widgets.kv.persistent.fingerprint import Fingerprint
from ollm_widgets.kv.persistent.folders import MODEL_NAME
from ollm_widgets.kv.persistent.index import (
    INDEX_NAME,
    DamagedIndex,
    Index,
    open_index_to_look,
)
from ollm_widgets.kv.persistent.neighbours import (
    ASIDE,
    is_in_use,
    last_used,
    remove_tree,
    store_folders,
)

_SHORT_DIGITS = 8
# The last one is what columns of another type than they should have lead to.
_UNREADABLE = (DamagedIndex, sqlite3.Error, OSError, TypeError)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One store.

    Parameters
    ----------
    name
        Short name of the store, for `store_info` and `remove`.
    folder
        Where it is.
    model, dtype, device, codec, adapted
        The model's name and setting; whether it has an adapter. Empty where they are not known.
    tokens
        Tokens whose keys and values are kept; what conversations share counts once.
    conversations
        Ends of chains.
    bytes
        On the disk.
    last_used
        Seconds since 1970; 0 where nothing was ever kept.
    in_use
        Whether a process that runs has it open for writing, or reads from it now.
    problem
        Why it cannot be used: damaged, of another version, set aside; empty for a good one.
    """

    name: str
    folder: Path
    model: str = ""
    dtype: str = ""
    device: str = ""
    codec: str = ""
    adapted: bool = False
    tokens: int = 0
    conversations: int = 0
    bytes: int = 0
    last_used: float = 0.0
    in_use: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """One conversation of a store, from its first token to its end.

    Parameters
    ----------
    tokens
        Its length.
    own_tokens
        How many of them no other conversation has.
    bytes
        What removing it would free.
    last_used
        Seconds since 1970.
    """

    tokens: int
    own_tokens: int
    bytes: int
    last_used: float


def list_stores(root: Path) -> list[StoredModel]:
    """List every store below `root`, the last used first; those that cannot be used too."""
    stores = [_look_at(path) for path in store_folders(root)]
    return sorted(stores, key=lambda store: (-store.last_used, store.name))


def store_info(root: Path, name: str) -> tuple[StoredModel, list[StoredPrefix]]:
    """Look into one store.

    Parameters
    ----------
    root
        Folder of all stores.
    name
        Its short name or the beginning of its folder's, or the model's where it has one store.

    Returns
    -------
    store, prefixes
        The last used first.

    Raises
    ------
    KVStrategyError
        When there is no such store, or several.
    """
    stores = _named(root, name)
    if len(stores) > 1:
        names = ", ".join(f"{store.name} ({store.dtype}, {store.device})" for store in stores)
        raise KVStrategyError(
            f"{len(stores)} KV stores are of {name!r}.", hint=f"Name one of them: {names}."
        )
    (store,) = stores
    if store.problem:
        return store, []
    try:
        with _opened(store.folder) as index:
            return store, _prefixes(index)
    except _UNREADABLE as error:
        return replace(store, problem=f"it cannot be read: {error}"), []


def remove(root: Path, name: str) -> list[StoredModel]:
    """Delete a store, or all stores of a model.

    Parameters
    ----------
    root
        Folder of all stores.
    name
        See `store_info`; of a model with several stores all go.

    Returns
    -------
    list of StoredModel
        What was deleted.

    Raises
    ------
    KVStrategyError
        When there is no such store.
    DeletionError
        When one of them is in use by a process, or the disk refuses; none or not all is deleted.
    """
    stores = _named(root, name)
    busy = [store.name for store in stores if store.in_use]
    if busy:
        raise DeletionError(
            f"The KV store {', '.join(busy)} is in use by a process that runs.",
            hint="Close the runtime of that model, or restart its kernel, and try again.",
        )
    for store in stores:
        remove_tree(store.folder)
        if store.folder.exists():
            raise DeletionError(
                f"{store.folder} could not be deleted whole.",
                hint="Check the rights of the folder, and whether something else uses it.",
            )
    return stores


def _named(root: Path, name: str) -> list[StoredModel]:
    stores = list_stores(root)
    found = [store for store in stores if name in (store.name, store.folder.name)]
    found = found or [store for store in stores if name and store.model == name]
    if not found and len(name) >= 4:
        found = [store for store in stores if store.folder.name.startswith(name)]
    if not found:
        present = ", ".join(f"{store.name} ({store.model})" for store in stores) or "none"
        raise KVStrategyError(
            f"There is no KV store {name!r} in {root}.", hint=f"There are: {present}."
        )
    return found


def _look_at(folder: Path) -> StoredModel:
    is_aside = folder.name.endswith(ASIDE)
    store = StoredModel(
        folder.name[:_SHORT_DIGITS] + (ASIDE if is_aside else ""),
        folder,
        bytes=_bytes_below(folder),
        problem="it was set aside" if is_aside else "",
    )
    fingerprint = _fingerprint_in(folder)
    if fingerprint is not None:
        store = replace(
            store,
            model=fingerprint.model,
            dtype=fingerprint.dtype,
            device=fingerprint.device,
            codec=fingerprint.codec,
            adapted=bool(fingerprint.adapter),
        )
    if is_aside:
        return store
    try:
        with _opened(folder) as index:
            return replace(
                store,
                tokens=_tokens(index),
                conversations=len(_ends(index)),
                last_used=last_used(index),
                in_use=is_in_use(index),
            )
    except _UNREADABLE as error:
        return replace(store, problem=str(error))


def _fingerprint_in(folder: Path) -> Fingerprint | None:
    try:
        text = (folder / MODEL_NAME).read_bytes()
        return msgspec.json.decode(text, type=Fingerprint)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


@contextmanager
def _opened(folder: Path) -> Iterator[Index]:
    index = open_index_to_look(folder / INDEX_NAME)
    try:
        with index.reading():
            yield index
    finally:
        index.close()


def _tokens(index: Index) -> int:
    return int(index.rows("SELECT coalesce(sum(length(ids)), 0) FROM blocks")[0][0]) // 4


def _ends(index: Index) -> list[int]:
    """Last blocks of conversations; not those that only are how far one had come."""
    ends: dict[int | None, list[tuple[bytes, int]]] = {}
    for number, parent, ids, is_end in index.rows(
        "SELECT id, parent, ids, NOT EXISTS (SELECT 1 FROM blocks AS next WHERE "
        "next.parent = one.id) FROM blocks AS one"
    ):
        ends.setdefault(parent, []).append((ids, number if is_end else 0))
    return [
        number
        for blocks in ends.values()
        for ids, number in blocks
        if number and not any(other != ids and other.startswith(ids) for other, _ in blocks)
    ]


def _prefixes(index: Index) -> list[StoredPrefix]:
    """Every end of a chain, walked back; its own is what no other one follows."""
    blocks = {
        number: (parent, size // 4, used)
        for number, parent, size, used in index.rows(
            "SELECT id, parent, length(ids), last_used FROM blocks"
        )
    }
    bytes_of = dict(index.rows("SELECT block, sum(size) FROM parts GROUP BY block"))
    followers = Counter(parent for parent, _, _ in blocks.values())
    prefixes: list[StoredPrefix] = []
    for end in _ends(index):
        tokens = own_tokens = own_bytes = 0
        shared = False
        number: int | None = end
        # Nothing follows twice, whatever a damaged index says.
        left = dict(blocks)
        while number in left:
            parent, here, _ = left.pop(number)
            shared |= followers[number] > 1
            tokens += here
            if not shared:
                own_tokens += here
                own_bytes += bytes_of.get(number, 0)
            number = parent
        prefixes.append(StoredPrefix(tokens, own_tokens, own_bytes, blocks[end][2]))
    return sorted(prefixes, key=lambda prefix: -prefix.last_used)


def _bytes_below(folder: Path) -> int:
    if folder.is_file():
        return folder.stat().st_size
    total = 0
    for path in folder.rglob("*"):
        try:
            # SQLite's shared memory is there only while somebody looks.
            counts = path.is_file() and not path.name.endswith("-shm")
            total += path.stat().st_size if counts else 0
        except OSError:
            continue
    return total
