"""Files of a folder that stay open while they are used, a bounded number of them."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ollm_widgets.kv.layouts.positional import PositionalFile

# Well below the 1024 that a process may usually have; others in it open files too.
_MOST_OPEN = 128


@dataclass(slots=True)
class _Opened:
    file: PositionalFile
    writable: bool
    users: int = 0
    retired: bool = False
    remove: bool = False


class OpenFiles:
    """Files by their name; each is opened when it is first used.

    Parameters
    ----------
    folder
        Where they are.
    most_open
        Beyond so many, the one that was not used for longest is closed.
    """

    def __init__(self, folder: Path, *, most_open: int = _MOST_OPEN) -> None:
        self._folder = folder
        self._most_open = most_open
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._own: set[str] = set()
        self._unsynced: set[str] = set()
        self._closed = False

    def create(self, name: str) -> None:
        """Make an empty file, to be written from here on.

        Raises
        ------
        FileExistsError
            When there is one.
        """
        with self._lock:
            self._require_open()
            self._insert(name, FileIO(self._folder / name, "x+"), writable=True)
            self._own.add(name)

    def take_over(self, name: str) -> None:
        """Be able to write to a file that is there already."""
        with self._lock:
            self._own.add(name)
            held = self._opened.get(name)
            if held is not None and not held.writable:
                self._retire(name, remove=False)

    @contextmanager
    def use(self, name: str, *, write: bool = False) -> Iterator[PositionalFile]:
        """Keep a file open for as long as the block runs.

        Raises
        ------
        OSError
            When it cannot be opened, or `name` is not that of a file.
        ValueError
            When all are closed.
        """
        with self._lock:
            self._require_open()
            held = self._opened.get(name)
            if held is None:
                held = self._open(name)
            self._opened.move_to_end(name)
            held.users += 1
        try:
            yield held.file
        finally:
            with self._lock:
                held.users -= 1
                # Only now: a sync that came before the end has not seen all of it.
                if write and name in self._own:
                    self._unsynced.add(name)
                self._finish(name, held)

    def remove(self, name: str) -> None:
        """Delete a file, once nobody uses it; it may be gone already."""
        with self._lock:
            self._own.discard(name)
            self._unsynced.discard(name)
            if name in self._opened:
                self._retire(name, remove=True)
            else:
                self._unlink(name)

    def sync(self) -> None:
        """Return when every write that has ended is on the disk."""
        with self._lock:
            names, self._unsynced = self._unsynced, set()
        try:
            for name in sorted(names):
                # One that was removed meanwhile needs nothing.
                with suppress(FileNotFoundError), self.use(name) as file:
                    file.sync()
            if names:
                self._sync_folder()
        except BaseException:
            with self._lock:
                self._unsynced |= names & self._own
            raise

    def close(self) -> None:
        """Close each file, once nobody uses it."""
        with self._lock:
            self._closed = True
            for name in list(self._opened):
                self._retire(name, remove=False)

    def _open(self, name: str) -> _Opened:
        # It may come from a damaged index.
        if Path(name).name != name or "\0" in name:
            raise OSError(errno.EINVAL, f"{name!r} is not the name of a file")
        if name in self._own:
            with suppress(PermissionError):  # it can be read all the same
                return self._insert(name, FileIO(self._folder / name, "r+"), writable=True)
        return self._insert(name, FileIO(self._folder / name, "r"), writable=False)

    def _insert(self, name: str, file: FileIO, *, writable: bool) -> _Opened:
        held = self._opened[name] = _Opened(PositionalFile(file), writable)
        idle = [other for other, each in self._opened.items() if not each.users and other != name]
        for other in idle[: max(0, len(self._opened) - self._most_open)]:
            self._retire(other, remove=False)
        return held

    def _retire(self, name: str, *, remove: bool) -> None:
        held = self._opened.pop(name)
        held.retired, held.remove = True, remove
        self._finish(name, held)

    def _finish(self, name: str, held: _Opened) -> None:
        """Close what nobody will use any more; an open file cannot be deleted on Windows."""
        if held.retired and not held.users:
            held.file.close()
            if held.remove:
                self._unlink(name)

    def _unlink(self, name: str) -> None:
        with suppress(OSError):
            (self._folder / name).unlink()

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"The files in {self._folder} are closed.")

    def _sync_folder(self) -> None:
        # The names of new files; Windows cannot open a folder, and need not.
        with suppress(OSError):
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
