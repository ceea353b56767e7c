"""How fast a disk and the page cache give files, measured on files that are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ollm_widgets.planning.profile.identity import disk_key
from ollm_widgets.planning.profile.remembered import profile_file

# Less is over before all threads read.
_LEAST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class DiskSpeeds:
    """What one disk gives to as many threads as the engine reads with; None is not known.

    Parameters
    ----------
    disk_bytes_per_s
        Past the page cache (O_DIRECT), where the file system reads that way.
    page_cache_bytes_per_s
        From the page cache into memory.
    """

    disk_bytes_per_s: float | None = None
    page_cache_bytes_per_s: float | None = None


def disk_speeds_of(folder: Path) -> DiskSpeeds | None:
    """Return the speeds of the disk that holds a model, measuring them if nobody has yet.

    Reads at most 256 MiB of the model's largest file, for about a second at most.

    Parameters
    ----------
    folder
        A model's folder, or its one file.

    Returns
    -------
    DiskSpeeds or None
        None where there is no file of 32 MiB to measure with.
    """
    path = largest_file(folder)
    known = known_disk_speeds(path or folder)
    if known is not None or path is None:
        return known
    with profile_file().measuring():
        # Another thread or process may have measured while this one waited.
        return known_disk_speeds(path) or measure_disk(path)


def known_disk_speeds(path: Path) -> DiskSpeeds | None:
    """Return what is remembered of the disk that holds `path`; measures nothing."""
    key = disk_key(path)
    stored = profile_file().recall("disks", key) if key is not None else None
    if stored is None:
        return None
    return DiskSpeeds(
        stored.speeds.get("disk_bytes_per_s"), stored.speeds.get("page_cache_bytes_per_s")
    )


def measure_disk(path: Path) -> DiskSpeeds:
    """Measure the disk that holds a file, by reading it, and remember that."""
    from ollm_widgets.planning.profile.file_reading import read_speeds

    found = DiskSpeeds(*read_speeds(path))
    key = disk_key(path)
    if key is not None:
        # Also where nothing could be measured: each plan would try it again.
        speeds = {name: value for name, value in asdict(found).items() if value is not None}
        profile_file().remember("disks", key, speeds)
    return found


def largest_file(folder: Path) -> Path | None:
    """The largest file right in a folder, if it is large enough; a file stands for itself."""
    largest, largest_bytes = None, _LEAST_BYTES - 1
    for path in _files(folder):
        try:
            size_bytes = path.stat().st_size
        except OSError:
            continue
        if size_bytes > largest_bytes:
            largest, largest_bytes = path, size_bytes
    # The hub's cache links to files that another disk may hold.
    return largest.resolve() if largest is not None else None


def _files(folder: Path) -> Iterator[Path]:
    try:
        if folder.is_file():
            yield folder
            return
        with os.scandir(folder) as entries:
            # A pipe of a model's name would keep a reader waiting: regular files only.
            yield from (Path(entry.path) for entry in entries if entry.is_file())
    except OSError:
        return
