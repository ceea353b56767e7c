"""The file of what was measured on this machine, shared by all processes of a person."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from ollm_widgets.settings import cache_dir

Kind: TypeAlias = Literal["devices", "disks"]

_VERSION = 1
_NAME = "machine-profile.json"
# A machine has a few devices and disks; what is larger was not written here.
_MOST_BYTES = 1 << 20
_MOST_ENTRIES = 64
# Beyond these no machine is, and quotients would stop to be finite.
_LEAST, _MOST = 1e-10, 1e18
# Longer than a measurement; one who hangs must not keep others from planning.
_WAIT_S = 3.0


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was measured, by name, and when, in seconds since 1970; every value is above zero."""

    speeds: Mapping[str, float]
    measured_at: float


def profile_file() -> ProfileFile:
    """Return the file in the cache folder of this moment."""
    return _file_at(cache_dir() / _NAME)


@cache
def _file_at(path: Path) -> ProfileFile:
    return ProfileFile(path)


class ProfileFile:
    """Measurements of devices and disks, by their keys.

    What this process has seen stays as it is, so that plans of one session rest on the same
    figures; a damaged file or an entry that makes no sense counts as not measured.

    Parameters
    ----------
    path
        Where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: dict[tuple[Kind, str], Remembered] = {}
        self._measuring = threading.RLock()

    def recall(self, kind: Kind, key: str) -> Remembered | None:
        """Return what is known under a key."""
        known = self._seen.get((kind, key))
        if known is None:
            known = _entries(_read(self.path), kind).get(key)
            if known is not None:
                known = self._seen.setdefault((kind, key), known)
        return known

    def recall_all(self, kind: Kind) -> dict[str, Remembered]:
        """Return all that is known of a kind, by key."""
        seen = {key: value for (of, key), value in tuple(self._seen.items()) if of == kind}
        return _entries(_read(self.path), kind) | seen

    def remember(self, kind: Kind, key: str, speeds: Mapping[str, float]) -> None:
        """Keep a measurement of now; in this process alone where the file cannot be written."""
        measured = Remembered(dict(speeds), time.time())
        self._seen[kind, key] = measured
        with self.measuring():
            document = _read(self.path)
            kept: dict[str, object] = {"version": _VERSION}
            for of in ("devices", "disks"):
                entries = _entries(document, of)
                if of == kind:
                    entries[key] = measured
                kept[of] = _as_json(entries)
            _replace(self.path, kept)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Keep other threads and processes from measuring: they would halve each other's speed.

        A process that holds on for more than three seconds is not waited for.
        """
        import filelock

        with self._measuring, ExitStack() as held:
            # Without a lock a measurement is less exact, and the last one written stays.
            with suppress(OSError, filelock.Timeout, NotImplementedError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                lock = filelock.FileLock(f"{self.path}.lock", is_singleton=True)
                held.enter_context(lock.acquire(timeout=_WAIT_S))
            yield


def _read(path: Path) -> dict[str, object]:
    """The document, or an empty one where there is none that this version has written."""
    try:
        # A pipe of that name would keep a reader waiting.
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return {}
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        return {}
    return document


def _entries(document: dict[str, object], kind: Kind) -> dict[str, Remembered]:
    stored = document.get(kind)
    if not isinstance(stored, dict):
        return {}
    found: dict[str, Remembered] = {}
    for key, entry in stored.items():
        if isinstance(entry, dict) and isinstance(entry.get("speeds"), dict):
            speeds = {name: _number(value) for name, value in entry["speeds"].items()}
            known = {name: value for name, value in speeds.items() if value is not None}
            found[key] = Remembered(known, _number(entry.get("measured_at")) or 0.0)
    return found


def _number(stored: object) -> float | None:
    """A number that can be divided by; None for all else that a file can hold."""
    if isinstance(stored, bool) or not isinstance(stored, int | float):
        return None
    return float(stored) if _LEAST <= stored <= _MOST else None


def _as_json(entries: Mapping[str, Remembered]) -> dict[str, object]:
    newest = sorted(entries.items(), key=lambda entry: entry[1].measured_at)[-_MOST_ENTRIES:]
    return {
        key: {"measured_at": entry.measured_at, "speeds": dict(entry.speeds)}
        for key, entry in newest
    }


def _replace(path: Path, document: Mapping[str, object]) -> None:
    """Replace the file in one step; readers see the old one or the new one."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(file, "w", encoding="utf-8") as written:
                json.dump(document, written, indent=1)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
