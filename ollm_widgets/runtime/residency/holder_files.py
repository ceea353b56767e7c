"""The files by which kernels show each other what they hold, and ask for some of it.

What is read was written by another process, perhaps by another version of this package, perhaps
by nobody who means well. So it is small, checked, and else ignored.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

MOST_BYTES = 256 * 1024
_MOST_SIZE_BYTES = 2**62
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

Words = Annotated[str, msgspec.Meta(max_length=1000)]
Name = Annotated[str, msgspec.Meta(max_length=80, pattern=r"\A[A-Za-z0-9:._-]+\Z")]
SizeBytes = Annotated[int, msgspec.Meta(ge=0, le=_MOST_SIZE_BYTES)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class PlaceRecord(msgspec.Struct, frozen=True):
    """Bytes in one memory; `uuid` says which GPU it is, where that is known."""

    place: Name
    size_bytes: SizeBytes
    uuid: Name | None = None


class RuntimeRecord(msgspec.Struct, frozen=True):
    """One runtime of a kernel."""

    name: Words
    state: Name
    idle_s: Seconds
    places: Annotated[tuple[PlaceRecord, ...], msgspec.Meta(max_length=64)]


class HolderRecord(msgspec.Struct, frozen=True):
    """What a kernel keeps; `at` is seconds since the epoch."""

    title: Words
    at: Seconds
    runtimes: Annotated[tuple[RuntimeRecord, ...], msgspec.Meta(max_length=256)]


class PleaRecord(msgspec.Struct, frozen=True):
    """A request for memory; `at` is seconds since the epoch."""

    asker_title: Words
    at: Seconds
    wanted: PlaceRecord


Record = TypeVar("Record", HolderRecord, PleaRecord)


def in_words(text: str) -> str:
    """Return any text as what may be shown in a line: no control characters, no more than that."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:200])


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """Read a file; None for one that is gone, is no plain file, is too large or is damaged."""
    try:
        file = os.open(path, _FLAGS)
    except (OSError, ValueError):
        return None
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES:
            return None
        return msgspec.json.decode(os.read(file, MOST_BYTES), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    finally:
        os.close(file)


def write_record(path: Path, record: HolderRecord | PleaRecord) -> None:
    """Write a file in one step; readers see the old one or the new one.

    Raises
    ------
    OSError
        When the folder cannot be written.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as written:
            written.write(msgspec.json.encode(record))
        part.replace(path)
    except OSError:
        remove(part)
        raise


def remove(path: Path) -> bool:
    """Remove a file; whether it was there and is gone."""
    with contextlib.suppress(OSError):
        path.unlink()
        return True
    return False


def make_private(folder: Path) -> None:
    """Make a folder that only this user may open.

    Raises
    ------
    OSError
        When it cannot be made, or when what is there is no folder of this user.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        raise NotADirectoryError(f"{folder} is no folder")
    if hasattr(os, "getuid"):
        if about.st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        if about.st_mode & 0o077:
            folder.chmod(0o700)
