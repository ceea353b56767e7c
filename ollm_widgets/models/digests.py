"""Content hashes of large files, remembered by path, size and modification time."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import msgspec

from ollm_widgets.models.job_control import CancelFlag, Progress, raise_if_cancelled, report

_CHUNK_BYTES = 4 * 1024 * 1024
_MAX_REMEMBERED = 1_000


class _Remembered(msgspec.Struct, frozen=True):
    size_bytes: int
    mtime_ns: int
    sha256: str


def known_digest(path: Path, memory: Path) -> str | None:
    """SHA-256 of `path` if it was computed before and the file has not changed since.

    Parameters
    ----------
    path
        The file.
    memory
        JSON file that remembers digests.
    """
    entry = _load(memory).get(str(path))
    stat = path.stat()
    if entry is None or (entry.size_bytes, entry.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
        return None
    return entry.sha256


def content_digest(
    path: Path,
    memory: Path,
    progress: Progress | None = None,
    cancel: CancelFlag | None = None,
) -> str:
    """SHA-256 of a file's content, computed at most once for each state of the file."""
    known = known_digest(path, memory)
    if known is not None:
        return known
    stat = path.stat()
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            raise_if_cancelled(cancel, f"Hashing {path.name}")
            digest.update(chunk)
            done += len(chunk)
            report(progress, "Check GGUF", done, stat.st_size)
    entry = _Remembered(stat.st_size, stat.st_mtime_ns, digest.hexdigest())
    _store(memory, str(path), entry)
    return entry.sha256


def remember_digest(path: Path, memory: Path, sha256: str) -> None:
    """Remember the SHA-256 of a file that was computed while the file was written."""
    stat = path.stat()
    _store(memory, str(path), _Remembered(stat.st_size, stat.st_mtime_ns, sha256))


def _load(memory: Path) -> dict[str, _Remembered]:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=dict[str, _Remembered])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _store(memory: Path, path: str, entry: _Remembered) -> None:
    remembered = _load(memory)
    remembered.pop(path, None)
    remembered[path] = entry
    kept = dict(list(remembered.items())[-_MAX_REMEMBERED:])
    memory.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, since two threads may be here at once; whoever is last is remembered.
    with tempfile.NamedTemporaryFile(
        dir=memory.parent, prefix=f".{memory.name}.", delete=False
    ) as partial:
        partial.write(msgspec.json.encode(kept))
    Path(partial.name).replace(memory)
