"""A folder for the files of one cache, gone with it or, after a crash, with the next one."""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path

from ollm_widgets.kv.processes import is_alive, this_process

_NAME = re.compile(r"live-(\d+-\d+)-[0-9a-f]+")


def fresh_folder(parent: Path) -> Path:
    """Make a folder that names this process, and remove those of processes that are gone."""
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    folder = parent / f"live-{this_process()}-{uuid.uuid4().hex[:12]}"
    folder.mkdir()
    return folder


def sweep(parent: Path) -> list[Path]:
    """Remove the folders that dead processes left in `parent`; returns them."""
    gone = []
    for folder in parent.iterdir():
        name = _NAME.fullmatch(folder.name)
        if name is not None and not is_alive(name[1]):
            shutil.rmtree(folder, ignore_errors=True)
            gone.append(folder)
    return gone
