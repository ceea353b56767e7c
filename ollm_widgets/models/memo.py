"""Remembering what was read from a folder for as long as its files do not change."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")
Signature = tuple[tuple[str, int, int], ...]


def signature_of(path: Path) -> Signature:
    """Names, sizes and modification times of a file, or of the entries right in a folder."""
    if not path.is_dir():
        return (_stamp("", path),)
    with os.scandir(path) as entries:
        return tuple(sorted(_stamp(entry.name, entry) for entry in entries))


def _stamp(name: str, file: Path | os.DirEntry[str]) -> tuple[str, int, int]:
    try:
        stat = file.stat()
    except OSError:
        return (name, -1, -1)
    return (name, stat.st_size, stat.st_mtime_ns)


class FolderMemo(Generic[Value]):
    """Values computed from a folder, dropped when the folder's signature changes.

    Safe to use from several threads; two threads may compute the same value at once, which
    costs time and changes nothing.

    Parameters
    ----------
    capacity
        Values kept; the one unused for longest goes first.
    """

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._values: OrderedDict[tuple[Hashable, Path], tuple[Signature, Value]] = OrderedDict()

    def get(self, path: Path, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the value for `path` and `key`, computed anew when the files have changed."""
        try:
            signature = signature_of(path)
        except OSError:
            return compute()
        place = (key, path)
        with self._lock:
            known = self._values.get(place)
            if known is not None and known[0] == signature:
                self._values.move_to_end(place)
                return known[1]
        value = compute()
        with self._lock:
            self._values[place] = (signature, value)
            self._values.move_to_end(place)
            while len(self._values) > self._capacity:
                self._values.popitem(last=False)
        return value
