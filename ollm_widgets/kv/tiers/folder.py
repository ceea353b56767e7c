"""A folder for the files of one cache, gone with it or, after a crash, with the next one."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

_NAME = re.compile(r"live-(\d+)-(\d+)-[0-9a-f]+")
# Start times are computed from the clock, which may be set meanwhile.
_START_TOLERANCE_S = 3


def fresh_folder(parent: Path) -> Path:
    """Make a folder that names this process, and remove those of processes that are gone."""
    import psutil

    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    started = int(psutil.Process().create_time())
    folder = parent / f"live-{os.getpid()}-{started}-{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    return folder


def sweep(parent: Path) -> list[Path]:
    """Remove the folders that dead processes left in `parent`; returns them."""
    gone = []
    for folder in parent.iterdir():
        name = _NAME.fullmatch(folder.name)
        if name is not None and not _runs(int(name[1]), int(name[2])):
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder)
    return gone


def _runs(process_id: int, started: int) -> bool:
    import psutil

    try:
        running: float = psutil.Process(process_id).create_time()
        return abs(running - started) <= _START_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
