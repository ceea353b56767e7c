"""A lock that this process holds for as long as it lives, so that others see when it has gone."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path

LOCK_SUFFIX = ".lock"
_TRIES = 8
# Machine, process, when it began, and which of its managers.
_KEY = re.compile(r"([0-9a-f]{12})-([0-9]{1,10})-([0-9a-f]{1,16})-[0-9a-f]{8}")


class Presence:
    """An operating system's lock on a file of its own, named by the process.

    The system gives the lock back however the process ends, and whatever process gets its number
    next. A forked child does not keep it. Other files of the process are named by `key`, a point
    and more; they go with the lock when the interpreter ends, or this is collected.

    Parameters
    ----------
    folder
        Where the file is made.

    Raises
    ------
    OSError
        When the folder cannot be written, or its disk knows no locks.
    """

    def __init__(self, folder: Path) -> None:
        for _ in range(_TRIES):
            self.key = f"{_own_prefix()}-{secrets.token_hex(4)}"
            self.path = folder / f"{self.key}{LOCK_SUFFIX}"
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOT_FOLLOWED, 0o600)
            locked = False
            try:
                # Whoever looks for dead processes just now may have it, and then removes it.
                locked = _try_lock(file, shared=False) and self.path.exists()
            finally:
                if not locked:
                    os.close(file)
                    self.path.unlink(missing_ok=True)
            if locked:
                break
        else:
            raise OSError(f"{folder} gives no lock")
        self._held = _Held(file)
        self._leave = weakref.finalize(self, _leave, self._held, folder, self.key, os.getpid())
        if hasattr(os, "register_at_fork"):
            # Without a strong reference: what is registered stays for the life of the process.
            os.register_at_fork(after_in_child=functools.partial(_drop, weakref.ref(self._held)))

    def close(self) -> None:
        """Give the lock back and remove this process's files."""
        self._leave()


class _Held:
    """The open file that keeps the lock, until it is closed."""

    def __init__(self, file: int) -> None:
        self.file: int | None = file

    def close(self) -> bool:
        file, self.file = self.file, None
        if file is not None:
            os.close(file)
        return file is not None


def _leave(held: _Held, folder: Path, key: str, pid: int) -> None:
    # In this order: Windows removes no file that is open, and a file without lock is nobody's.
    with contextlib.suppress(OSError):
        if os.getpid() == pid and held.close():
            for path in list(folder.iterdir()):
                if path.name.startswith(f"{key}."):
                    with contextlib.suppress(OSError):
                        path.unlink()


def _drop(held: weakref.ref[_Held]) -> None:
    """In a forked child: close what it inherited, or the lock would outlive its owner."""
    inherited = held()
    if inherited is not None:
        with contextlib.suppress(OSError):
            inherited.close()


def keys_in(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names of files by the key of the process that they belong to; of others, none."""
    found: dict[str, list[str]] = {}
    for name in names:
        key = name.partition(".")[0]
        if is_key(key):
            found.setdefault(key, []).append(name)
    return found


def is_key(text: str) -> bool:
    """Whether this names a process."""
    return _KEY.fullmatch(text) is not None


def pid_of(key: str) -> int:
    """Return the number of the process with this key."""
    return int(key.split("-")[1])


def is_here(key: str) -> bool:
    """Whether the process with this key runs, or ran, on this machine since it was started."""
    return key.startswith(f"{machine_id()}-")


def is_own(key: str) -> bool:
    """Whether it is this process itself, perhaps another manager of it."""
    return key.startswith(f"{_own_prefix()}-")


def is_alive(folder: Path, key: str, bury: Callable[[], None]) -> bool:
    """Whether the process with this key still holds its lock.

    Parameters
    ----------
    bury
        Removes what a dead process left. Called with its lock taken, so that a process that is
        just making its own does not lose it unawares.

    Raises
    ------
    OSError
        When it cannot be told: the disk knows no locks, or the file may not be opened.
    """
    try:
        file = os.open(folder / f"{key}{LOCK_SUFFIX}", os.O_RDONLY | _NOT_FOLLOWED | _NOT_WAITED)
    except FileNotFoundError:
        bury()  # the lock is the first of a process's files
        return False
    try:
        # Shared, so that two who look at once do not take each other for the owner.
        if not _try_lock(file, shared=True):
            return True
        bury()
        return False
    finally:
        os.close(file)


@functools.cache
def machine_id() -> str:
    """Return what tells this machine, since it was started, from others that share a folder."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        text = platform.node()
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _own_prefix() -> str:
    return _prefix_of(os.getpid())


@functools.cache
def _prefix_of(pid: int) -> str:
    import psutil

    # Containers that share the folder may have the same number for different processes.
    began_ms = 0
    with contextlib.suppress(psutil.Error):
        began_ms = int(psutil.Process(pid).create_time() * 1000)
    return f"{machine_id()}-{pid}-{began_ms:x}"


_NOT_FOLLOWED = getattr(os, "O_NOFOLLOW", 0)
_NOT_WAITED = getattr(os, "O_NONBLOCK", 0)

if sys.platform == "win32":

    def _try_lock(file: int, *, shared: bool) -> bool:
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:

    def _try_lock(file: int, *, shared: bool) -> bool:
        """Take the lock if it is free; it goes when the file is closed."""
        import fcntl

        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
